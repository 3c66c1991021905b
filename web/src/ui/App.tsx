import { useDesk } from "./context";
import { Dashboard } from "./Dashboard";
import { Login } from "./Login";
import { Wordmark } from "./Wordmark";

export function App() {
  const { session } = useDesk();
  const state = session.state.value;
  switch (state.kind) {
    case "user":
      return <Dashboard user={state.user} />;
    case "anonymous":
      return <Login notice={state.notice} />;
    case "unreachable":
      return (
        <main class="gate" aria-live="polite">
          <Wordmark />
          <p>The server cannot be reached.</p>
          <button type="button" class="button primary" onClick={() => void session.resume()}>
            Try again
          </button>
        </main>
      );
    case "loading":
      return (
        <main class="gate" aria-busy="true">
          <Wordmark />
          <p class="quiet">Connecting…</p>
        </main>
      );
  }
}
