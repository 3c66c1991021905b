import { createContext } from "preact";
import { useContext } from "preact/hooks";

import type { Desk } from "../stores/desk";

export const DeskContext = createContext<Desk | null>(null);

export function useDesk(): Desk {
  const desk = useContext(DeskContext);
  if (desk === null) throw new Error("used outside of DeskContext");
  return desk;
}
