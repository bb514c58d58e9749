// What the person chooses: language, appearance, keys. Remembered by this browser.

import { $ } from "./dom.js";
import { currentLanguage, languages, speak } from "./language.js";
import { recall, remember } from "./memory.js";

function drawLanguage() {
  for (const select of document.querySelectorAll("select.language")) {
    select.value = currentLanguage();
  }
}

function drawTheme() {
  const theme = recall("theme") ?? "";
  $("theme").value = theme;
  document.documentElement.dataset.theme = theme;
}

/** Whether the key `/` alone does something: programs that listen to speech may trip over it. */
export function hasSlash() {
  return recall("slash") !== "off";
}

function drawSlash() {
  $("slash").checked = hasSlash();
  $("search-key").hidden = !hasSlash();
}

export function beginSettings() {
  drawLanguage();
  drawTheme();
  drawSlash();
  languages.addEventListener("change", drawLanguage);
  for (const select of document.querySelectorAll("select.language")) {
    select.addEventListener("change", () => speak(select.value));
  }
  $("theme").addEventListener("change", () => {
    remember("theme", $("theme").value);
    drawTheme();
  });
  $("slash").addEventListener("change", () => {
    remember("slash", $("slash").checked ? "on" : "off");
    drawSlash();
  });
}
