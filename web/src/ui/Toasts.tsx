import { useDesk } from "./context";

/** Errors interrupt a screen reader, events wait their turn. */
export function Toasts() {
  return (
    <div class="toasts">
      <div role="status" aria-live="polite">
        <ToastsOf kind="event" />
      </div>
      <div role="alert" aria-live="assertive">
        <ToastsOf kind="error" />
      </div>
    </div>
  );
}

function ToastsOf({ kind }: { kind: "event" | "error" }) {
  const { toasts } = useDesk();
  return (
    <>
      {toasts.shown.value
        .filter((toast) => toast.kind === kind)
        .map((toast) => (
          <div key={toast.id} class={`toast ${kind}`} data-testid="toast">
            <span>{toast.text}</span>
            <button type="button" class="icon" aria-label="Dismiss" onClick={() => toasts.dismiss(toast.id)}>
              ×
            </button>
          </div>
        ))}
    </>
  );
}
