import { effect } from "@preact/signals";
import { useEffect } from "preact/hooks";

import { formatMoney } from "../decimal";
import { useDesk } from "./context";

/** Keep the total in the tab's title, with what must be known about it. */
export function useTitle(): void {
  const { live } = useDesk();
  useEffect(() => {
    const stop = effect(() => {
      const { totals, isSimulated } = live.state.value;
      const total = totals === null ? "" : `${formatMoney(totals.total_pnl, { signed: true })} ${totals.currency} · `;
      const stale = totals !== null && live.totalsAreStale.value ? "STALE " : "";
      document.title = `${isSimulated ? "SIM " : ""}${stale}${total}Tidemark`;
    });
    return () => {
      stop();
      document.title = "Tidemark";
    };
  }, [live]);
}
