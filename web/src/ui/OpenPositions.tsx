import { computed, type Signal, useComputed, useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";

import type { Live } from "../stores/live";
import { useDesk } from "./context";
import { PositionRow } from "./PositionRow";
import { NEWEST_FIRST, nextOrder, type Order, type SortKey, sortedIds } from "./sorting";

/** Rows beyond this are drawn when asked for: a phone cannot draw two thousand live rows. */
const PAGE = 100;

export function OpenPositions() {
  const { live } = useDesk();
  const order = useSignal(NEWEST_FIRST);
  const shown = useSignal(PAGE);
  const ids = useMemo(() => sortedIdsOf(live, order), [live]).value;
  const isKnown = useComputed(() => live.state.value.rows !== null);

  if (!isKnown.value) return <p class="empty">Waiting for positions…</p>;
  if (ids.length === 0) {
    return (
      <p class="empty" data-testid="no-positions">
        No open positions. Open one to see its profit and loss move with the market.
      </p>
    );
  }
  return (
    <>
      <div class="scroller">
        <table class="grid cards open-grid" role="table" data-testid="positions-table">
          <thead role="rowgroup">
            <tr role="row">
              <SortHeader order={order} sortKey="symbol" label="Position" />
              <Header label="Quantity" />
              <Header label="Entry" />
              <Header label="Mark" />
              <SortHeader order={order} sortKey="value" label="Value" isNumber />
              <SortHeader order={order} sortKey="unrealized" label="Unrealised" isNumber />
              <SortHeader order={order} sortKey="realized" label="Realised" isNumber />
              <SortHeader order={order} sortKey="opened" label="Opened" isNumber />
              <th role="columnheader" scope="col" class="action">
                <span class="visually-hidden">Actions</span>
              </th>
            </tr>
          </thead>
          <tbody role="rowgroup">
            {ids.slice(0, shown.value).map((id) => (
              <PositionRow key={id} positionId={id} />
            ))}
          </tbody>
        </table>
      </div>
      {ids.length > shown.value && (
        <button type="button" class="button plain wide" onClick={() => (shown.value += PAGE)}>
          Show more ({ids.length - shown.value} hidden)
        </button>
      )}
    </>
  );
}

/** The ids in order; the same array as before while they are the same, so that the table is not drawn again. */
function sortedIdsOf(live: Live, order: Signal<Order>) {
  let before: string[] = [];
  return computed(() => {
    const ids = sortedIds(live.state.value.rows?.values() ?? [], order.value);
    const isSame = ids.length === before.length && ids.every((id, index) => id === before[index]);
    if (!isSame) before = ids;
    return before;
  });
}

function Header({ label }: { label: string }) {
  return (
    <th role="columnheader" scope="col" class="number">
      {label}
    </th>
  );
}

interface SortHeaderProps {
  order: Signal<Order>;
  sortKey: SortKey;
  label: string;
  isNumber?: boolean;
}

function SortHeader({ order, sortKey, label, isNumber = false }: SortHeaderProps) {
  const isChosen = order.value.key === sortKey;
  const direction = order.value.isDescending ? "descending" : "ascending";
  return (
    <th role="columnheader" scope="col" class={isNumber ? "number" : ""} aria-sort={isChosen ? direction : "none"}>
      <button type="button" class="sort" onClick={() => (order.value = nextOrder(order.value, sortKey))}>
        {label}
        <span class="arrow" aria-hidden="true">
          {isChosen ? (order.value.isDescending ? "↓" : "↑") : ""}
        </span>
      </button>
    </th>
  );
}
