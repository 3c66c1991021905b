/** Long or short, bought or sold: a word, coloured. */
export function SideTag({ side }: { side: string }) {
  const tone = side === "long" || side === "buy" ? "up" : side === "short" || side === "sell" ? "down" : "quiet";
  return <span class={`side-tag ${tone}`}>{side}</span>;
}
