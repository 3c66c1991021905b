/** Why a request failed: the server said so (RFC 9457), or it could not be asked. */

export interface FieldError {
  field: string;
  detail: string;
}

/** The server refused. Nothing changed, unless `isOutcomeUnknown`. */
export class Problem extends Error {
  override readonly name = "Problem";

  constructor(
    readonly status: number,
    readonly code: string,
    readonly title: string,
    readonly detail: string,
    readonly errors: readonly FieldError[] = [],
  ) {
    super(detail || title);
  }

  /** Whether the change may have happened all the same. */
  get isOutcomeUnknown(): boolean {
    return this.code === "outcome_unknown" || this.status === 502 || this.status === 504;
  }
}

/** No answer came: a change may or may not have happened. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";
}

/** Read an error answer. What stands between may answer with something else than a problem. */
export function problemFrom(status: number, body: unknown): Problem {
  const fields = isRecord(body) ? body : {};
  return new Problem(
    status,
    text(fields["code"]) ?? "unknown",
    text(fields["title"]) ?? `The server answered ${status}`,
    text(fields["detail"]) ?? "",
    Array.isArray(fields["errors"]) ? fields["errors"].flatMap(fieldError) : [],
  );
}

/** What to tell a person. */
export function explain(error: unknown): string {
  if (error instanceof Unreachable) return "The server cannot be reached.";
  if (!(error instanceof Problem)) return "Something went wrong in this page.";
  if (error.errors.length > 0) return error.errors.map(({ field, detail }) => `${label(field)}: ${detail}`).join(" ");
  if (error.detail === "" || error.detail === error.title) return sentence(error.title);
  return `${sentence(error.title)} ${sentence(error.detail)}`;
}

/** Why one field was refused, or null where the error is not about it. */
export function explainField(error: unknown, field: string): string | null {
  if (!(error instanceof Problem)) return null;
  return error.errors.find((entry) => entry.field === field)?.detail ?? null;
}

/** Whether all that is wrong is about fields, which then say it themselves. */
export function isAboutFields(error: unknown, fields: readonly string[]): boolean {
  return error instanceof Problem && error.errors.length > 0 && error.errors.every(({ field }) => fields.includes(field));
}

function fieldError(entry: unknown): FieldError[] {
  if (!isRecord(entry)) return [];
  const pointer = text(entry["pointer"])?.split("/").at(-1);
  return [{ field: text(entry["field"]) ?? pointer ?? "", detail: text(entry["detail"]) ?? "is not valid" }];
}

function label(field: string): string {
  const words = field.replaceAll("_", " ").trim();
  return words === "" ? "Request" : words[0]!.toUpperCase() + words.slice(1);
}

function sentence(words: string): string {
  return /[.!?]$/.test(words) ? words : `${words}.`;
}

function text(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
