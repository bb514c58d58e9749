// Says that the telephone rings to somebody who does not look at the page: a notification of the
// system, the title and the icon of the tab, and a word for those who listen to the page.

import { $ } from "./dom.js";
import { languages, t, tell, write } from "./language.js";
import { recall, remember } from "./memory.js";

const TITLE = "MXFlex";

/** Whether notifications can be had: `granted`, `denied`, `default`: nobody was asked, `none`. */
function permission() {
  return globalThis.Notification?.permission ?? "none";
}

export class Ringing {
  #calls;
  #stream = null;
  #announced = new Set();
  #shown = new Map();

  constructor({ calls }) {
    this.#calls = calls;
    calls.addEventListener("change", () => this.#draw());
    languages.addEventListener("change", () => {
      this.#draw();
      this.#drawChoice();
    });
    $("ask-notify-yes").addEventListener("click", () => this.#choose(true));
    $("ask-notify-no").addEventListener("click", () => this.#choose(false));
    $("notify").addEventListener("change", () => this.#choose($("notify").checked));
    window.addEventListener("focus", () => this.#closeAll());
    // Nobody would take them away once the page has gone.
    window.addEventListener("pagehide", () => this.#closeAll());
    this.#drawChoice();
  }

  begin(stream) {
    this.#stream = stream;
  }

  end() {
    this.#stream = null;
    this.#announced = new Set();
    this.#closeAll();
    this.#draw();
  }

  get #wanted() {
    return permission() === "granted" && recall("notify") !== "off";
  }

  // A browser may be asked by a click alone, and asks the person only once.
  async #choose(wanted) {
    remember("notify", wanted ? "on" : "off");
    if (wanted && permission() === "default") {
      await Notification.requestPermission();
    }
    this.#drawChoice();
  }

  #drawChoice() {
    const allowed = permission();
    $("ask-notify").hidden = allowed !== "default" || recall("notify") !== null;
    $("notify").checked = this.#wanted;
    $("notify").disabled = allowed === "denied" || allowed === "none";
    const words = { denied: "notify-denied", none: "notify-impossible" };
    if (Object.hasOwn(words, allowed)) {
      tell($("notify-word"), words[allowed]);
    } else {
      write($("notify-word"), "");
    }
  }

  #draw() {
    // By name, if there is one: it takes a moment to ask for it.
    const ringing = this.#calls.ringing.filter((call) => this.#calls.isNamed(call));
    const names = new Map(ringing.map((call) => [String(call.callId), this.#calls.title(call)]));
    const [first] = names.values();
    document.title = first === undefined ? TITLE : `${t("is-calling", { name: first })} · ${TITLE}`;
    const icon = first === undefined ? "favicon.svg" : "favicon-ringing.svg";
    if ($("icon").getAttribute("href") !== icon) {
      $("icon").setAttribute("href", icon);
    }
    for (const [key, name] of names) {
      if (!this.#announced.has(key)) {
        this.#announced.add(key);
        write($("announcement"), t("incoming-call", { name }));
        this.#notify(key, name);
      }
    }
    for (const key of this.#announced) {
      if (!names.has(key)) {
        this.#announced.delete(key);
        this.#shown.get(key)?.close();
        this.#shown.delete(key);
      }
    }
    if (names.size === 0) {
      write($("announcement"), "");
    }
  }

  #notify(key, name) {
    // All tabs of a person hear the call; the one that leads speaks for them.
    if (!this.#wanted || !this.#stream?.leader || document.hasFocus()) {
      return;
    }
    try {
      const shown = new Notification(t("is-calling", { name }), {
        body: t("notification-body"),
        icon: "favicon-ringing.svg",
        tag: `mxflex-${key}`,
        requireInteraction: true,
      });
      shown.addEventListener("click", () => {
        window.focus();
        shown.close();
      });
      this.#shown.set(key, shown);
    } catch {
      // Telephones have them from service workers alone.
    }
  }

  #closeAll() {
    for (const shown of this.#shown.values()) {
      shown.close();
    }
    this.#shown = new Map();
  }
}
