import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

import { ClosedPositions } from "./ClosedPositions";
import { useDesk } from "./context";
import { OpenPositions } from "./OpenPositions";
import { TradeList } from "./TradeList";

type Tab = "open" | "closed" | "trades";

const TABS: readonly { tab: Tab; label: string }[] = [
  { tab: "open", label: "Positions" },
  { tab: "closed", label: "Closed" },
  { tab: "trades", label: "Trades" },
];

export function Positions() {
  const { live, closed, trades } = useDesk();
  const chosen = useSignal<Tab>("open");
  useEffect(() => {
    if (chosen.value === "closed") void closed.load();
    if (chosen.value === "trades") void trades.load();
  }, [chosen.value]);
  const count = live.state.value.rows?.size ?? null;
  return (
    <section class="panel positions" aria-label="Positions and trades">
      <TabList chosen={chosen} openCount={count} />
      <div role="tabpanel" id={`panel-${chosen.value}`} aria-labelledby={`tab-${chosen.value}`}>
        {chosen.value === "open" && <OpenPositions />}
        {chosen.value === "closed" && <ClosedPositions />}
        {chosen.value === "trades" && <TradeList />}
      </div>
    </section>
  );
}

/** Arrow keys move between tabs, as the ARIA practice for tabs says. */
function TabList({ chosen, openCount }: { chosen: Signal<Tab>; openCount: number | null }) {
  const list = useRef<HTMLDivElement>(null);

  function onKeyDown(event: KeyboardEvent): void {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (step === 0) return;
    const index = TABS.findIndex(({ tab }) => tab === chosen.value);
    const next = TABS[(index + step + TABS.length) % TABS.length];
    if (next === undefined) return;
    chosen.value = next.tab;
    list.current?.querySelector<HTMLElement>(`#tab-${next.tab}`)?.focus();
  }

  return (
    <div class="tabs" role="tablist" ref={list} onKeyDown={onKeyDown}>
      {TABS.map(({ tab, label }) => (
        <button
          key={tab}
          type="button"
          role="tab"
          id={`tab-${tab}`}
          data-testid={`tab-${tab}`}
          aria-selected={chosen.value === tab}
          aria-controls={`panel-${tab}`}
          tabIndex={chosen.value === tab ? 0 : -1}
          onClick={() => (chosen.value = tab)}
        >
          {label}
          {tab === "open" && openCount !== null && <span class="count">{openCount}</span>}
        </button>
      ))}
    </div>
  );
}
