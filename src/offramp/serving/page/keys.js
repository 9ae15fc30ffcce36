// The key that is typed into the page. It lives in this variable alone.

import { byId } from "./dom.js";

let key = "";

export const keyHeader = () => (key ? { Authorization: `Bearer ${key}` } : {});

export function rememberKey(typed) {
  key = typed.trim();
  for (const input of document.querySelectorAll("input.key")) input.value = key;
  byId("key").textContent = key ? "Key set" : "Key";
}

export function prepareKeys() {
  const dialog = byId("keys");
  byId("key").addEventListener("click", () => dialog.showModal());
  dialog.querySelector("form").addEventListener("submit", () => rememberKey(byId("key-input").value));
  byId("keys-forget").addEventListener("click", () => {
    rememberKey("");
    dialog.close();
  });
}
