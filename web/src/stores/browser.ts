/** The browser as the stream sees it: sockets, clocks, timers. */

import type { Ports, SocketListener } from "../stream/client";
import { SUBPROTOCOL } from "../stream/protocol";

export function browserPorts(probe: Ports["probe"]): Ports {
  return {
    connect: openSocket,
    now: () => performance.now(),
    wallNow: () => Date.now(),
    random: () => Math.random(),
    isOnline: () => navigator.onLine,
    probe,
    after(ms, callback) {
      const timer = setTimeout(callback, ms);
      return () => clearTimeout(timer);
    },
  };
}

function openSocket(listener: SocketListener) {
  const url = new URL("/api/v1/stream", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(url, SUBPROTOCOL);
  socket.addEventListener("message", (message) => listener.onMessage(message.data));
  socket.addEventListener("close", ({ code }) => listener.onClose(code));
  return {
    send(text: string) {
      if (socket.readyState === WebSocket.OPEN) socket.send(text);
    },
    close() {
      socket.close();
    },
  };
}
