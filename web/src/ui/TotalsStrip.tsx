import { useComputed } from "@preact/signals";

import { Age } from "./Age";
import { useDesk } from "./context";
import { Gain, Money } from "./Figure";

export function TotalsStrip() {
  const { live } = useDesk();
  const totals = useComputed(() => live.state.value.totals).value;
  const isStale = live.totalsAreStale.value;
  const isFlat = useComputed(() => live.state.value.rows?.size === 0).value;
  const unpriced = totals?.unpriced ?? [];
  return (
    <section class={`totals ${isStale && totals !== null ? "is-stale" : ""}`} aria-label="Totals">
      <dl>
        <div class="total-main">
          <dt>
            Total P&amp;L <span class="unit">{totals?.currency}</span>
          </dt>
          <dd>
            <Gain value={totals?.total_pnl ?? null} testId="total-pnl" />
          </dd>
        </div>
        <div>
          <dt>Unrealised</dt>
          <dd>
            <Gain value={totals?.unrealized_pnl ?? null} testId="unrealized-pnl" />
          </dd>
        </div>
        <div>
          <dt>Realised</dt>
          <dd>
            <Gain value={totals?.realized_pnl ?? null} testId="realized-pnl" />
          </dd>
        </div>
        <div>
          <dt>Today, UTC</dt>
          <dd>
            <Gain value={totals?.day_pnl ?? null} testId="day-pnl" />
          </dd>
        </div>
        <div>
          <dt>
            Equity <span class="unit">{totals?.currency}</span>
          </dt>
          <dd>
            <Money value={totals?.equity ?? null} testId="equity" />
          </dd>
        </div>
      </dl>
      {totals !== null && (
        <div class="totals-notes" role="status">
          {/* Without positions the totals rest on no price: they are not live, but not stale either. */}
          {(isStale || !isFlat) && (
            <span class={`badge ${isStale ? "warn" : "good"}`} data-testid="totals-freshness">
              {isStale ? "Stale" : "Live"}
            </span>
          )}
          <span class={`badge ${totals.is_complete ? "" : "warn"}`} data-testid="totals-completeness">
            {totals.is_complete ? "Complete" : "Partial"}
          </span>
          <OldestAge />
          {unpriced.length > 0 && (
            <span class="unpriced" data-testid="unpriced">
              Not in the totals, for want of a price in {totals.currency}: {unpriced.join(", ")}
            </span>
          )}
        </div>
      )}
    </section>
  );
}

function OldestAge() {
  const { live } = useDesk();
  const isKnown = useComputed(() => live.oldestAgeMs.value !== null);
  if (!isKnown.value) return null;
  return (
    <span class="quiet" aria-hidden="true">
      oldest price <Age ageMs={() => live.oldestAgeMs.value} testId="oldest-age" />
    </span>
  );
}
