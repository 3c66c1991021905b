import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

interface Attributes {
  id: string;
  "aria-invalid": boolean;
  "aria-describedby"?: string;
}

interface Props {
  label: string;
  hint?: string;
  error?: string | null;
  /** Draws the input with the attributes that tie it to its label and its error. */
  children(attributes: Attributes): ComponentChildren;
}

/** A labelled input; what is wrong with it is said below it, and to screen readers. */
export function Field({ label, hint, error = null, children }: Props) {
  const id = useId();
  const attributes: Attributes = { id, "aria-invalid": error !== null };
  if (error !== null) attributes["aria-describedby"] = `${id}-error`;
  return (
    <div class="field">
      <label for={id}>
        {label}
        {hint !== undefined && <span class="quiet"> {hint}</span>}
      </label>
      {children(attributes)}
      {error !== null && (
        <p class="field-error" id={`${id}-error`} role="alert">
          {error}
        </p>
      )}
    </div>
  );
}
