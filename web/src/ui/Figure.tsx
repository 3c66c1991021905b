import { useEffect, useRef } from "preact/hooks";

import { compare, formatMoney, formatPercent, formatPrice, formatQuantity, signOf } from "../decimal";

const UNKNOWN = "—";

/** Ten flashes a second say nothing, and a hundred rows of them keep a processor busy. */
const FLASH_EVERY_MS = 1_500;
const FLASH_MS = 400;

interface Props {
  /** The exact decimal, or null where it is not known. */
  value: string | null;
  testId?: string;
}

/** An amount that is good or bad: by colour, and by its sign for those who do not see colour. */
export function Gain({ value, testId }: Props) {
  return (
    <span class={tone(value)} data-testid={testId} data-value={value ?? ""} title={value ?? "unknown"}>
      {value === null ? UNKNOWN : formatMoney(value, { signed: true })}
    </span>
  );
}

export function GainPercent({ value, testId }: Props) {
  return (
    <span class={tone(value)} data-testid={testId} data-value={value ?? ""}>
      {value === null ? UNKNOWN : formatPercent(value, { signed: true })}
    </span>
  );
}

export function Money({ value, testId }: Props) {
  return (
    <span data-testid={testId} data-value={value ?? ""} title={value ?? "unknown"}>
      {value === null ? UNKNOWN : formatMoney(value)}
    </span>
  );
}

export function Quantity({ value }: { value: string }) {
  return <span title={value}>{formatQuantity(value)}</span>;
}

/** A price; `flashes` shows now and then which way it went. */
export function PriceFigure({ value, testId, flashes = false }: Props & { flashes?: boolean }) {
  const element = useRef<HTMLSpanElement>(null);
  const before = useRef({ value, flashedAt: -Infinity });
  useEffect(() => {
    if (!flashes || element.current === null || value === null) return;
    const { value: then, flashedAt } = before.current;
    if (then === null) {
      before.current.value = value;
    } else if (performance.now() - flashedAt >= FLASH_EVERY_MS) {
      before.current = { value, flashedAt: performance.now() };
      flash(element.current, compare(value, then));
    }
  }, [value]);
  return (
    <span ref={element} class="price" data-testid={testId} data-value={value ?? ""} title={value ?? "unknown"}>
      {value === null ? UNKNOWN : formatPrice(value)}
    </span>
  );
}

function tone(value: string | null): string {
  if (value === null) return "quiet";
  const sign = signOf(value);
  return sign > 0 ? "up" : sign < 0 ? "down" : "flat";
}

function flash(element: HTMLElement, direction: number): void {
  if (direction === 0 || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const colour = getComputedStyle(element).getPropertyValue(direction > 0 ? "--flash-up" : "--flash-down");
  element.animate([{ backgroundColor: colour }, { backgroundColor: "transparent" }], {
    duration: FLASH_MS,
    easing: "ease-out",
  });
}
