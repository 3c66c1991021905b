import { render } from "preact";

import { Desk } from "./stores/desk";
import "./styles/index.css";
import { App } from "./ui/App";
import { DeskContext } from "./ui/context";

const desk = new Desk();
const root = document.getElementById("app");
if (root === null) throw new Error("the page has no #app");

render(
  <DeskContext.Provider value={desk}>
    <App />
  </DeskContext.Provider>,
  root,
);
desk.start();
