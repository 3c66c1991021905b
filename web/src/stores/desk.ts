/** Everything behind the screen, put together. */

import { batch, effect, signal } from "@preact/signals";

import { sender } from "../api/http";
import { Api, type Trade } from "../api/resources";
import type { EventMessage, Position } from "../stream/protocol";
import { announcement } from "./announcement";
import { browserPorts } from "./browser";
import { Listing } from "./listing";
import { Live } from "./live";
import { Session } from "./session";
import { Toasts } from "./toasts";
import { Watchlist } from "./watchlist";

/** Many events may come at once; the lists are read again when they pause. */
const REFRESH_MS = 300;

export class Desk {
  readonly api = new Api(sender(() => this.#onSessionLost("Your session has ended.")));
  readonly session = new Session(this.api);
  readonly toasts = new Toasts();
  readonly watchlist = new Watchlist(localStorage);
  readonly closed = new Listing<Position>((cursor) => this.api.closedPositions(cursor));
  readonly trades = new Listing<Trade>((cursor) => this.api.trades(cursor));
  /** The symbol in the order ticket; its price is followed too. */
  readonly ticketSymbol = signal("");
  readonly live = new Live(
    browserPorts(() => this.session.probe()),
    {
      onEvent: (event) => this.#onEvent(event),
      onReload: () => this.#refreshSoon(),
      onSessionLost: (reason) => this.#onSessionLost(reason),
    },
  );
  #refresh: ReturnType<typeof setTimeout> | undefined;

  start(): void {
    effect(() => this.#followSession());
    effect(() => this.live.want(this.#symbolsOfInterest()));
    document.addEventListener("visibilitychange", () => this.live.setVisible(!document.hidden));
    window.addEventListener("online", () => this.live.nudge());
    window.addEventListener("offline", () => this.live.nudge());
    this.live.setVisible(!document.hidden);
    void this.session.resume();
  }

  #followSession(): void {
    const session = this.session.state.value;
    if (session.kind === "user") this.live.start(session.user.settings.stale_after_ms);
    else this.#clear();
  }

  /** Nothing of one user may be seen by the next. */
  #clear(): void {
    clearTimeout(this.#refresh);
    batch(() => {
      this.live.stop();
      this.closed.clear();
      this.trades.clear();
      this.ticketSymbol.value = "";
    });
  }

  /** Most important first, for the server limits how many. */
  #symbolsOfInterest(): string[] {
    const held = [...(this.live.state.value.rows?.values() ?? [])].map((row) => row.symbol);
    const inTicket = this.ticketSymbol.value === "" ? [] : [this.ticketSymbol.value];
    return [...new Set([...inTicket, ...held, ...this.watchlist.symbols.value])];
  }

  #onEvent(event: EventMessage): void {
    const text = announcement(event);
    if (text !== null) this.toasts.tell(text);
    this.#refreshSoon();
  }

  #refreshSoon(): void {
    clearTimeout(this.#refresh);
    this.#refresh = setTimeout(() => {
      void this.closed.refresh();
      void this.trades.refresh();
    }, REFRESH_MS);
  }

  #onSessionLost(reason: string): void {
    this.session.lose(reason);
  }
}
