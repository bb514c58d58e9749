// The window that shows one person with all the numbers, each of which can be called.

import { $, copyOf, make, press } from "./dom.js";
import { languages, tell, write } from "./language.js";
import { drawAvatar, nameOf, presenceText } from "./people.js";

const NUMBERS = { ext: "extension", did: "did", cellPhone: "cellPhone", homePhone: "homePhone" };

export class PersonCard {
  #people;
  #call;
  #jid = null;

  constructor({ people, call }) {
    this.#people = people;
    this.#call = call;
    $("person-close").addEventListener("click", () => $("person").close());
    $("person").addEventListener("click", (event) => {
      // The window itself is hit where its ground is: beside it.
      if (event.target === $("person")) {
        $("person").close();
      }
    });
    people.addEventListener("reset", () => this.#refresh());
    people.addEventListener("contact", () => this.#refresh());
    languages.addEventListener("change", () => this.#refresh());
  }

  show(contact) {
    this.#jid = contact.jid;
    $("person-error").textContent = "";
    this.#drawNumbers(contact);
    this.#draw(contact);
    $("person").showModal();
  }

  end() {
    $("person").close();
    drawAvatar($("person-avatar"), "");
    for (const id of ["person-name", "person-about", "person-numbers"]) {
      $(id).replaceChildren();
    }
  }

  #refresh() {
    const contact = $("person").open ? this.#people.get(this.#jid) : undefined;
    if (contact !== undefined) {
      this.#draw(contact);
    }
  }

  #draw(contact) {
    drawAvatar($("person-avatar"), nameOf(contact), contact);
    write($("person-name"), nameOf(contact));
    const about = [presenceText(contact.status), contact.note].filter(Boolean);
    write($("person-about"), about.join(" · "));
  }

  #drawNumbers(contact) {
    const items = [];
    for (const [key, word] of Object.entries(NUMBERS)) {
      const number = contact[key];
      if (number) {
        items.push(this.#number(number, word));
      }
    }
    if (contact.email) {
      const kind = make("span", "quiet");
      tell(kind, "email");
      // A line may end behind the @.
      const [who, ...host] = contact.email.split(/(?<=@)/);
      const address = make("span", "grow", who, make("wbr"), ...host);
      const link = make("a", "choice", kind, address);
      link.href = `mailto:${encodeURIComponent(contact.email)}`;
      items.push(make("li", "", link));
    }
    $("person-numbers").replaceChildren(...items);
  }

  #number(number, word) {
    const item = copyOf("number-template");
    const button = item.querySelector("button");
    tell(item.querySelector(".kind"), word);
    write(item.querySelector(".number"), number);
    button.addEventListener("click", async () => {
      if (await press(button, $("person"), () => this.#call(number))) {
        $("person").close();
      }
    });
    return item;
  }
}
