import { describe, expect, it } from "vitest";

import {
  add,
  compare,
  explainInvalid,
  format,
  formatMoney,
  formatPercent,
  formatPrice,
  formatQuantity,
  multiply,
  parse,
  round,
  signOf,
  subtract,
  toPlain,
  truncate,
} from "./decimal";

describe("reading and writing", () => {
  it.each(["0", "1", "-1", "0.1", "-0.000000000000000001", "123456789012345678.123456789012345678"])(
    "%s survives a round trip",
    (text) => expect(toPlain(parse(text))).toBe(text),
  );

  it.each(["", " ", "1e5", "NaN", "Infinity", ".5", "5.", "+1", "1,000", "١", "--1", "0x10"])(
    "refuses %j",
    (text) => expect(() => parse(text)).toThrow(RangeError),
  );

  it("drops trailing zeros and negative zero", () => {
    expect(toPlain(parse("1.500"))).toBe("1.5");
    expect(toPlain(parse("-0.00"))).toBe("0");
  });
});

describe("arithmetic is exact where binary floats are not", () => {
  it("adds a tenth and two tenths", () => {
    expect(toPlain(add(parse("0.1"), parse("0.2")))).toBe("0.3");
  });

  it("keeps digits beyond 2^53", () => {
    expect(toPlain(add(parse("9007199254740993"), parse("0.000000000000000001")))).toBe(
      "9007199254740993.000000000000000001",
    );
  });

  it("subtracts to the last place", () => {
    expect(toPlain(subtract(parse("1"), parse("0.000000000000000001")))).toBe("0.999999999999999999");
  });

  it("multiplies quantities and prices", () => {
    expect(toPlain(multiply(parse("0.1"), parse("67000.15")))).toBe("6700.015");
    expect(toPlain(multiply(parse("-3"), parse("0.000000000000000001")))).toBe("-0.000000000000000003");
  });

  it("truncates towards zero, so that a part never exceeds the whole", () => {
    expect(toPlain(truncate(parse("0.999999999"), 8))).toBe("0.99999999");
    expect(toPlain(truncate(parse("-0.999999999"), 8))).toBe("-0.99999999");
  });

  it("rounds half away from zero", () => {
    expect(toPlain(round(parse("0.125"), 2))).toBe("0.13");
    expect(toPlain(round(parse("-0.125"), 2))).toBe("-0.13");
    expect(toPlain(round(parse("0.1249999"), 2))).toBe("0.12");
  });
});

describe("comparing", () => {
  it("orders by value, not by text", () => {
    expect(compare("10", "9")).toBe(1);
    expect(compare("-10", "-9")).toBe(-1);
    expect(compare("1.0", "1.000")).toBe(0);
    expect(compare("0.000000000000000001", "0")).toBe(1);
  });

  it("knows signs", () => {
    expect([signOf("-0.00"), signOf("-0.01"), signOf("3")]).toEqual([0, -1, 1]);
  });
});

describe("formatting", () => {
  it("groups thousands and keeps the wanted places", () => {
    expect(format(parse("1234567.891"), { places: 2 })).toBe("1,234,567.89");
    expect(format(parse("999"), { places: 2 })).toBe("999.00");
    expect(format(parse("1000"), { places: 0 })).toBe("1,000");
    expect(format(parse("123456"), { places: 0 })).toBe("123,456");
  });

  it("carries over when rounding", () => {
    expect(format(parse("999.999"), { places: 2 })).toBe("1,000.00");
  });

  it("signs with plus and a true minus", () => {
    expect(format(parse("12.3"), { places: 2, signed: true })).toBe("+12.30");
    expect(format(parse("-12.3"), { places: 2, signed: true })).toBe("\u221212.30");
    expect(format(parse("-12.3"), { places: 2 })).toBe("\u221212.30");
  });

  it("gives zero, and what rounds to it, no sign", () => {
    expect(format(parse("0"), { places: 2, signed: true })).toBe("0.00");
    expect(format(parse("-0.004"), { places: 2, signed: true })).toBe("0.00");
  });

  it("formats money to two places, and small amounts to two digits that count", () => {
    expect(formatMoney("-1234.5", { signed: true })).toBe("\u22121,234.50");
    expect(formatMoney("0.0000123456")).toBe("0.000012");
    expect(formatMoney("0")).toBe("0.00");
    expect(formatMoney("0.009")).toBe("0.01");
  });

  it("formats fractions as per cent", () => {
    expect(formatPercent("0.0123", { signed: true })).toBe("+1.23%");
    expect(formatPercent("-1.5")).toBe("\u2212150.00%");
  });

  it("formats prices by magnitude", () => {
    expect(formatPrice("67000.15")).toBe("67,000.15");
    expect(formatPrice("67000.125000000000000000")).toBe("67,000.13");
    expect(formatPrice("3.1")).toBe("3.1000");
    expect(formatPrice("0.5")).toBe("0.50000");
    expect(formatPrice("0.00001234")).toBe("0.000012340");
  });

  it("formats quantities without trailing zeros", () => {
    expect(formatQuantity("1200.500")).toBe("1,200.5");
    expect(formatQuantity("1000")).toBe("1,000");
    expect(formatQuantity("0.000000000012")).toBe("0.000000000012");
  });
});

describe("what the server would refuse", () => {
  it.each(["1", "0.5", "000.1", "123456789012345678.123456789012345678"])("accepts %j", (text) =>
    expect(explainInvalid(text)).toBeNull(),
  );

  it.each(["", "0", "0.000", "-1", "1e3", "NaN", "1,5", "1234567890123456789", "1.", ".1", " 1", "١٢"])(
    "explains %j",
    (text) => expect(explainInvalid(text)).toMatch(/\w/),
  );
});
