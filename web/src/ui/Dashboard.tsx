import type { User } from "../api/resources";
import { Header } from "./Header";
import { Positions } from "./Positions";
import { SimulatedBanner } from "./SimulatedBanner";
import { Ticket } from "./Ticket";
import { Toasts } from "./Toasts";
import { TotalsStrip } from "./TotalsStrip";
import { useTitle } from "./title";
import { WatchlistPanel } from "./WatchlistPanel";

export function Dashboard({ user }: { user: User }) {
  useTitle();
  return (
    <div class="dashboard">
      <div class="masthead">
        <SimulatedBanner />
        <Header user={user} />
      </div>
      <main class="desk">
        <TotalsStrip />
        <Positions />
        <aside class="side">
          <Ticket />
          <WatchlistPanel />
        </aside>
      </main>
      <Toasts />
    </div>
  );
}
