/**
 * Keys that let a request be repeated without being carried out twice.
 *
 * A key belongs to one intention. It is kept while the outcome is not known and
 * the body is the same, so that pressing the button again asks about the same
 * change; after a definite answer the same body is a new intention.
 */
export class Intention {
  #body: string | null = null;
  #key = "";

  keyFor(body: unknown): string {
    const text = JSON.stringify(body);
    if (text !== this.#body) {
      this.#body = text;
      this.#key = randomKey();
    }
    return this.#key;
  }

  /** The server gave a definite answer. */
  settle(): void {
    this.#body = null;
  }
}

/** `crypto.randomUUID` exists only on secure origins; a page on the local network may not be one. */
function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
