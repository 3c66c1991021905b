import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useId, useRef } from "preact/hooks";

import type { SymbolInfo } from "../api/resources";
import { useDesk } from "./context";

const PAUSE_MS = 120;

interface Props {
  /** What is typed; a symbol once chosen. */
  text: Signal<string>;
  /** A symbol that the server lists was picked, or typed in full. */
  onChoose(symbol: string): void;
  /** Typing goes on: what was chosen before no longer holds. */
  onType?(): void;
  attributes: { id: string; "aria-invalid"?: boolean; "aria-describedby"?: string };
  testId: string;
  placeholder?: string;
}

/** A text field that suggests symbols: the ARIA combobox with a list. */
export function SymbolField({ text, onChoose, onType, attributes, testId, placeholder }: Props) {
  const { api } = useDesk();
  const listId = useId();
  const suggestions = useSignal<readonly SymbolInfo[]>([]);
  const isOpen = useSignal(false);
  const active = useSignal(-1);
  const search = useRef<{ timer: ReturnType<typeof setTimeout>; abort: AbortController } | null>(null);

  function cancel(): void {
    clearTimeout(search.current?.timer);
    search.current?.abort.abort();
    search.current = null;
  }
  useEffect(() => cancel, []);

  function choose(symbol: string): void {
    cancel();
    text.value = symbol;
    isOpen.value = false;
    active.value = -1;
    onChoose(symbol);
  }

  function type(typed: string): void {
    cancel();
    text.value = typed.trim();
    active.value = -1;
    onType?.();
    if (text.value === "") {
      isOpen.value = false;
      return;
    }
    const abort = new AbortController();
    search.current = { abort, timer: setTimeout(() => void suggest(text.value, abort.signal), PAUSE_MS) };
  }

  async function suggest(query: string, signal: AbortSignal): Promise<void> {
    try {
      suggestions.value = await api.symbols(query, signal);
    } catch {
      // Suggestions are a convenience: without them the field is a text field.
      return;
    }
    if (signal.aborted) return;
    const exact = suggestions.value.find(({ symbol }) => symbol === query);
    // Written in full, there is nothing to choose, and a list would only hide what is below.
    if (exact !== undefined) return choose(exact.symbol);
    active.value = 0;
    isOpen.value = suggestions.value.length > 0 && document.activeElement?.id === attributes.id;
  }

  /** Leaving with `btcusdt` typed takes the one listed symbol that it can only mean. */
  function leave(): void {
    isOpen.value = false;
    const meant = suggestions.value.find(({ symbol }) => symbol === text.value.toUpperCase());
    if (meant !== undefined && meant.symbol !== text.value) choose(meant.symbol);
  }

  function onKeyDown(event: KeyboardEvent): void {
    const count = suggestions.value.length;
    if (!isOpen.value || count === 0) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const step = event.key === "ArrowDown" ? 1 : -1;
      active.value = (active.value + step + count) % count;
    } else if (event.key === "Enter") {
      const chosen = suggestions.value[active.value];
      if (chosen !== undefined) choose(chosen.symbol);
    } else if (event.key === "Escape") {
      isOpen.value = false;
    } else {
      return;
    }
    event.preventDefault();
  }

  return (
    <div class="combobox">
      <input
        {...attributes}
        type="text"
        role="combobox"
        data-testid={testId}
        autocomplete="off"
        autocapitalize="characters"
        spellcheck={false}
        aria-autocomplete="list"
        aria-expanded={isOpen}
        aria-controls={listId}
        aria-activedescendant={isOpen.value && active.value >= 0 ? `${listId}-${active.value}` : undefined}
        placeholder={placeholder}
        value={text}
        onInput={(event) => type(event.currentTarget.value)}
        onKeyDown={onKeyDown}
        onBlur={leave}
      />
      <ul id={listId} role="listbox" aria-label="Symbols" hidden={!isOpen.value}>
        {suggestions.value.map(({ symbol, base, quote }, index) => (
          <li
            key={symbol}
            id={`${listId}-${index}`}
            role="option"
            data-testid="symbol-option"
            aria-selected={index === active.value}
            // Choosing on press, before the field loses the focus and closes the list.
            onMouseDown={(event) => {
              event.preventDefault();
              choose(symbol);
            }}
          >
            <span class="symbol">{symbol}</span>
            {base !== undefined && quote !== undefined && (
              <span class="quiet">
                {base} / {quote}
              </span>
            )}
          </li>
        ))}
      </ul>
    </div>
  );
}
