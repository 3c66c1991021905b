/** Short messages that appear, and go again: a few at a time. */

import { signal } from "@preact/signals";

const SHOWN = 4;
const LASTS_MS = 6_000;
const ERROR_LASTS_MS = 10_000;

export interface Toast {
  readonly id: number;
  readonly kind: "event" | "error";
  readonly text: string;
}

export class Toasts {
  readonly shown = signal<readonly Toast[]>([]);
  #nextId = 1;

  tell(text: string): void {
    this.#add("event", text, LASTS_MS);
  }

  fail(text: string): void {
    this.#add("error", text, ERROR_LASTS_MS);
  }

  dismiss(id: number): void {
    this.shown.value = this.shown.value.filter((toast) => toast.id !== id);
  }

  #add(kind: Toast["kind"], text: string, lastsMs: number): void {
    const id = this.#nextId++;
    this.shown.value = [...this.shown.value, { id, kind, text }].slice(-SHOWN);
    setTimeout(() => this.dismiss(id), lastsMs);
  }
}
