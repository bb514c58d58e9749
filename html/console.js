// The console: signs a person in, and puts the parts of the page together.
//
// Whatever comes from the server goes into the page as text alone: a caller may choose any name.

import { login, resume } from "./mxflex.js";
import { Calls } from "./calls.js";
import { Directory } from "./directory.js";
import { $, errorText, mark, press } from "./dom.js";
import { Inspector } from "./inspector.js";
import { beginLanguage, languages, t, tell, write } from "./language.js";
import { forgetSession, keepSession, keptSession } from "./memory.js";
import { drawAvatar, nameOf, People } from "./people.js";
import { PersonCard } from "./person.js";
import { Picker } from "./picker.js";
import { Recent } from "./recent.js";
import { Ringing } from "./ringing.js";
import { beginSettings, hasSlash } from "./settings.js";
import { Status } from "./status.js";

const TOPICS = ["calls", "contacts", "status"];

beginLanguage();
beginSettings();

const people = new People();
const picker = new Picker({ people });
const calls = new Calls({ people, picker });
const call = (number) => calls.call(number);
const person = new PersonCard({ people, call });
const directory = new Directory({ people, call, showPerson: (contact) => person.show(contact) });
const recent = new Recent({ calls, people, call });
const inspector = new Inspector();
const ringing = new Ringing({ calls });
const status = new Status();

/** Who is signed in; null when nobody is. */
let session = null;

/** Whether that person is on the way out, by a word of their own. */
let leaving = false;

// --- Sign in and out -----------------------------------------------------------------------------

function begin(begun) {
  session = begun;
  leaving = false;
  keepSession(session.save());
  session.addEventListener("renewed", () => keepSession(begun.save()));
  session.addEventListener("ended", ({ detail }) => {
    end(begun, leaving ? "signed-out" : detail.reason);
  });
  const stream = session.connect({ topics: TOPICS, shared: true });
  people.begin(session, stream, directory.attempted);
  directory.begin(session);
  picker.begin(session);
  calls.begin(session, stream);
  inspector.begin(stream);
  ringing.begin(stream);
  status.begin(session, stream);
  stream.addEventListener("state", ({ detail }) => {
    if (detail.state === "live") {
      // Things may have happened before the stream was open.
      refresh();
    }
  });
  stream.addEventListener("gap", refresh);
  drawMe();
  $("sign-in").hidden = true;
  $("console").hidden = false;
  showView("calls");
  refresh();
}

function refresh() {
  people.refresh();
  calls.refresh();
}

/** Forgets the person and all that was shown to them; `word` is the key of what to say. */
function end(which, word) {
  if (session === null || session !== which) {
    return;
  }
  const over = session;
  session = null;
  over.close();
  forgetSession();
  $("menu").hidePopover();
  for (const part of [picker, person, directory, calls, recent, inspector, ringing, status, people]) {
    part.end();
  }
  showSignIn(word);
}

function showSignIn(word) {
  $("console").hidden = true;
  $("sign-in").hidden = false;
  $("sign-in-error").textContent = "";
  $("sign-in-word").hidden = word === "";
  if (word !== "") {
    tell($("sign-in-word"), word);
  }
  $("login").focus();
}

$("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const password = $("password");
  // The MX has words of its own for a login that it does not take.
  const words = (error) =>
    error.status === 403 ? t("login-refused", { text: error.message }) : errorText(error);
  let begun;
  const signIn = async () => {
    begun = await login($("login").value, password.value);
  };
  if (await press($("sign-in-button"), $("sign-in-form"), signIn, words)) {
    password.value = "";
    begin(begun);
    $("search").focus();
  } else {
    password.select();
  }
});

$("sign-out").addEventListener("click", async () => {
  const left = session;
  leaving = true;
  await press($("sign-out"), $("menu"), () => left.logout().catch(() => {}));
  end(left, "signed-out");
});

$("banner-button").addEventListener("click", () => end(session, ""));

// --- The bar -------------------------------------------------------------------------------------

function drawMe() {
  if (session === null) {
    write($("my-name"), "");
    write($("my-ext"), "");
    drawAvatar($("my-avatar"), "");
    return;
  }
  const me = people.withExtension(session.extension);
  const name = me === undefined ? session.extension : nameOf(me);
  write($("my-name"), me === undefined ? "" : name);
  write($("my-ext"), session.extension);
  drawAvatar($("my-avatar"), name, me);
}

people.addEventListener("reset", drawMe);
people.addEventListener("contact", drawMe);
languages.addEventListener("change", drawMe);

// --- Views: on a narrow screen one part is shown at a time ---------------------------------------

function showView(view) {
  mark($("desk"), "view", view);
  for (const button of document.querySelectorAll(".views button")) {
    button.setAttribute("aria-current", String(button.dataset.view === view));
  }
  if (view === "calls") {
    recent.seen();
  }
}

for (const button of document.querySelectorAll(".views button")) {
  button.addEventListener("click", () => showView(button.dataset.view));
}

// --- Once ----------------------------------------------------------------------------------------

// Where Answer was is Hold a moment later, so the second click of two must not count, nor a key that
// is held down.
for (const [name, isAgain] of [
  ["click", (event) => event.detail > 1 && event.target.closest("button") !== null],
  ["keydown", (event) => event.repeat && event.key === "Enter"],
]) {
  document.addEventListener(
    name,
    (event) => {
      if (isAgain(event)) {
        event.preventDefault();
        event.stopPropagation();
      }
    },
    true,
  );
}

// --- Keys ----------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  const busy = session === null || document.querySelector("dialog[open]") !== null;
  const typing = event.target.closest("input, select, textarea") !== null;
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
  // Keys by where they stand, too: on a Russian keyboard they write something else.
  const isSlash = event.key === "/" || (event.code === "Slash" && !event.shiftKey);
  const slash = isSlash && plain && !typing && hasSlash();
  const control = event.code === "KeyK" && (event.ctrlKey || event.metaKey) && !event.altKey;
  if (!busy && (slash || control)) {
    event.preventDefault();
    if (!$("search").checkVisibility()) {
      showView("directory");
    }
    directory.focusSearch();
  }
});

// --- Begin ---------------------------------------------------------------------------------------

/** Tells whether the browser has what this page is made with, the latest of which came in 2024. */
function isNewEnough() {
  return (
    "popover" in HTMLElement.prototype &&
    "any" in AbortSignal &&
    CSS.supports("color", "light-dark(#fff, #000)")
  );
}

function resumed() {
  const kept = keptSession();
  try {
    return kept === null ? null : resume(kept);
  } catch {
    // What is kept is no session.
    forgetSession();
    return null;
  }
}

const before = resumed();
if (!isNewEnough()) {
  showSignIn("too-old");
  $("sign-in-button").hidden = true;
} else if (before === null) {
  showSignIn("");
} else {
  begin(before);
}
