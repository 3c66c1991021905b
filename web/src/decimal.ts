/**
 * Decimal strings as the server sends them: read, compared, combined and written
 * without ever becoming a binary float.
 *
 * A value is `units · 10^-scale`. Only addition, subtraction and multiplication
 * are here, for they are exact; rounding happens in formatting and nowhere else.
 */

export interface Decimal {
  readonly units: bigint;
  readonly scale: number;
}

const SIGNED = /^-?[0-9]+(?:\.[0-9]+)?$/;
const ACCEPTED = /^[0-9]{1,18}(?:\.[0-9]{1,18})?$/;

/** The minus sign that aligns with digits; a hyphen is too short beside them. */
export const MINUS = "\u2212";

/** Read a plain decimal. Throws a RangeError for anything else: exponents, NaN, blanks. */
export function parse(text: string): Decimal {
  if (!SIGNED.test(text)) throw new RangeError(`not a plain decimal: ${JSON.stringify(text)}`);
  const point = text.indexOf(".");
  if (point < 0) return { units: BigInt(text), scale: 0 };
  const fraction = text.slice(point + 1);
  return { units: BigInt(text.slice(0, point) + fraction), scale: fraction.length };
}

/** Write a decimal plainly: no exponent, no trailing zeros, no negative zero. */
export function toPlain({ units, scale }: Decimal): string {
  const { sign, whole, fraction } = digits({ units, scale });
  const kept = fraction.replace(/0+$/, "");
  return `${sign}${whole}${kept && `.${kept}`}`;
}

/** −1, 0 or 1. */
export function compare(a: string, b: string): number {
  const difference = subtract(parse(a), parse(b)).units;
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}

/** −1, 0 or 1. */
export function signOf(text: string): number {
  const { units } = parse(text);
  return units < 0n ? -1 : units > 0n ? 1 : 0;
}

export function add(a: Decimal, b: Decimal): Decimal {
  const scale = Math.max(a.scale, b.scale);
  return { units: rescale(a, scale) + rescale(b, scale), scale };
}

export function subtract(a: Decimal, b: Decimal): Decimal {
  return add(a, { units: -b.units, scale: b.scale });
}

export function multiply(a: Decimal, b: Decimal): Decimal {
  return { units: a.units * b.units, scale: a.scale + b.scale };
}

/** Round half away from zero to `places`, adding zeros where there are fewer. */
export function round(value: Decimal, places: number): Decimal {
  if (value.scale <= places) return { units: rescale(value, places), scale: places };
  const divisor = 10n ** BigInt(value.scale - places);
  const magnitude = value.units < 0n ? -value.units : value.units;
  const rounded = (magnitude + divisor / 2n) / divisor;
  return { units: value.units < 0n ? -rounded : rounded, scale: places };
}

/** Cut to `places` towards zero: a part of a quantity must never exceed it. */
export function truncate(value: Decimal, places: number): Decimal {
  if (value.scale <= places) return value;
  return { units: value.units / 10n ** BigInt(value.scale - places), scale: places };
}

export interface Style {
  /** Digits after the point. */
  places: number;
  /** Show `+` before positive numbers. */
  signed?: boolean;
}

/** Write for a reader: rounded, thousands in groups, a real minus sign, no negative zero. */
export function format(value: Decimal, { places, signed = false }: Style): string {
  const { sign, whole, fraction } = digits(round(value, places));
  const isZero = !/[1-9]/.test(whole + fraction);
  const shown = isZero ? "" : sign ? MINUS : signed ? "+" : "";
  const grouped = whole.replace(/\B(?=(?:\d{3})+$)/g, ",");
  return `${shown}${grouped}${fraction && `.${fraction}`}`;
}

/** An amount of money: two places, more only where two would show a non-zero amount as zero. */
export function formatMoney(text: string, { signed = false } = {}): string {
  const value = parse(text);
  return format(value, { places: placesFor(value, 2), signed });
}

/** A fraction as per cent: `"0.0123"` is `1.23%`. */
export function formatPercent(fraction: string, { signed = false, places = 2 } = {}): string {
  return `${format(multiply(parse(fraction), { units: 100n, scale: 0 }), { places, signed })}%`;
}

/** A price: as many places as its magnitude needs, always the same for the same magnitude. */
export function formatPrice(text: string): string {
  const value = parse(text);
  return format(value, { places: pricePlaces(value) });
}

/** A quantity: all of its digits up to eight places, without trailing zeros. */
export function formatQuantity(text: string): string {
  const value = parse(text);
  const places = placesFor(value, 8);
  const written = format(value, { places });
  return written.includes(".") ? written.replace(/\.?0+$/, "") : written;
}

/**
 * Why a typed number would be refused by the server, or null where it would not.
 * The rule is the server's: positive, plain ASCII digits, at most 18 either side.
 */
export function explainInvalid(text: string): string | null {
  if (text === "") return "Enter a number.";
  if (text.includes(",")) return "Use a point for decimals and no separators.";
  if (!ACCEPTED.test(text)) return "Enter a plain positive number, at most 18 digits either side of the point.";
  if (signOf(text) === 0) return "Must be greater than zero.";
  return null;
}

function pricePlaces(value: Decimal): number {
  const integerDigits = digits(value).whole.replace(/^0+/, "").length;
  if (integerDigits >= 3) return 2;
  if (integerDigits >= 1) return 4;
  return Math.min(leadingZeros(value) + 5, 18);
}

/** `usual` places, or enough for two significant digits of something smaller than that shows. */
function placesFor(value: Decimal, usual: number): number {
  if (value.units === 0n || round(value, usual).units !== 0n) return usual;
  return Math.min(leadingZeros(value) + 2, 18);
}

/** Zeros between the point and the first other digit of a number below one. */
function leadingZeros(value: Decimal): number {
  const { fraction } = digits(value);
  return fraction.length - fraction.replace(/^0+/, "").length;
}

function digits({ units, scale }: Decimal): { sign: "" | "-"; whole: string; fraction: string } {
  const magnitude = (units < 0n ? -units : units).toString().padStart(scale + 1, "0");
  const cut = magnitude.length - scale;
  return { sign: units < 0n ? "-" : "", whole: magnitude.slice(0, cut), fraction: magnitude.slice(cut) };
}

function rescale({ units, scale }: Decimal, to: number): bigint {
  return units * 10n ** BigInt(to - scale);
}
