import { expect, it } from "vitest";

import { explain, explainField, isAboutFields, Problem, problemFrom, Unreachable } from "./problem";

const REFUSED = {
  type: "urn:tidemark:problem:exceeds_position",
  title: "More than is open",
  status: 422,
  detail: "Only 1 is open.",
  code: "exceeds_position",
  request_id: "r",
  errors: [],
};

it("reads a problem and tells it in sentences", () => {
  const problem = problemFrom(422, REFUSED);
  expect(problem).toMatchObject({ status: 422, code: "exceeds_position" });
  expect(explain(problem)).toBe("More than is open. Only 1 is open.");
});

it("names the fields that were refused", () => {
  const problem = problemFrom(422, {
    ...REFUSED,
    errors: [{ pointer: "#/quantity", field: "quantity", code: "x", detail: "Must be greater than zero." }],
  });
  expect(explain(problem)).toBe("Quantity: Must be greater than zero.");
  expect(explainField(problem, "quantity")).toBe("Must be greater than zero.");
  expect(explainField(problem, "price")).toBeNull();
});

it("knows whether fields say all there is", () => {
  const problem = problemFrom(422, { ...REFUSED, errors: [{ field: "quantity", detail: "x" }, { field: "fee", detail: "y" }] });
  expect(isAboutFields(problem, ["quantity", "fee"])).toBe(true);
  expect(isAboutFields(problem, ["quantity"])).toBe(false);
  expect(isAboutFields(problemFrom(422, REFUSED), ["quantity"])).toBe(false);
});

it.each([null, undefined, "<html>", [], { errors: "none" }, { errors: [null, 1, {}] }])(
  "survives an answer that is no problem: %j",
  (body) => expect(explain(problemFrom(502, body))).toMatch(/\w/),
);

it("knows when a change may have happened", () => {
  expect(problemFrom(503, { code: "outcome_unknown" }).isOutcomeUnknown).toBe(true);
  expect(problemFrom(504, null).isOutcomeUnknown).toBe(true);
  expect(problemFrom(422, REFUSED).isOutcomeUnknown).toBe(false);
});

it("tells the network's failures and its own apart", () => {
  expect(explain(new Unreachable())).toContain("reached");
  expect(explain(new TypeError("x is not a function"))).not.toContain("function");
  expect(explain(new Problem(409, "c", "Taken", ""))).toBe("Taken.");
});
