import { useComputed } from "@preact/signals";

import { formatAge } from "../stream/freshness";

interface Props {
  /** Milliseconds; read inside a computed, so that only the text is touched as it ticks. */
  ageMs(): number | null;
  testId?: string;
}

/** How old a number is, ticking. */
export function Age({ ageMs, testId }: Props) {
  const text = useComputed(() => {
    const age = ageMs();
    return age === null ? "" : formatAge(age);
  });
  return (
    <span class="age" data-testid={testId}>
      {text}
    </span>
  );
}
