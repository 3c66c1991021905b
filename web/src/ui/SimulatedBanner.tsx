import { useComputed } from "@preact/signals";

import { useDesk } from "./context";

/** Prices of a simulator are never shown without this. */
export function SimulatedBanner() {
  const { live } = useDesk();
  const isSimulated = useComputed(() => live.state.value.isSimulated);
  if (!isSimulated.value) return null;
  return (
    <div class="sim-banner" role="alert" data-testid="sim-banner">
      <strong>Simulated prices</strong>
      <span>Not the market: no figure here is real.</span>
    </div>
  );
}
