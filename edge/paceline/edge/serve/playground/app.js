// The playground: asks for a text, shows events as they come, keeps them for the replay. No dependencies.
//
// A text is a fold over its events (`Text.apply`), so that showing it live and replaying it are the same code.

const $ = (id) => document.getElementById(id);

const ORIGINS = {
  accepted: "drafted here, accepted",
  recovered: "corrected by the target",
  bonus: "the target's, after a full block",
  filled: "the target's, no draft was there",
  unverified: "not verified by any target",
};

// --- a text -----------------------------------------------------------------------------------------------------------

/** The tokens of one text, committed ones first, then those nobody has checked. */
class Text {
  constructor() {
    this.tokens = [];
    this.ahead = [];
    this.retracted = [];
  }

  /** Take one event into account. Positions count from the first generated token. */
  apply(event) {
    this.retracted = [];
    if (event.type === "tokens") {
      this.tokens.length = event.position;
      this.tokens.push(...event.tokens);
      const next = event.position + event.tokens.length;
      this.ahead = this.ahead.filter((token) => token.position >= next);
    } else if (event.type === "provisional") {
      this.ahead = this.ahead.filter((token) => token.position < event.position);
      event.tokens.forEach((token, index) => this.ahead.push({ ...token, position: event.position + index }));
    } else if (event.type === "retracted") {
      this.retracted = this.ahead.filter((token) => token.position >= event.position);
      this.ahead = this.ahead.filter((token) => token.position < event.position);
    }
  }
}

function tokenElement(token, chain) {
  const element = document.createElement("span");
  const writer = chain[token.author] ?? chain.at(-1) ?? "the target";
  element.className = `t ${token.origin}${token.author > 0 && token.author < chain.length - 1 ? " by1" : ""}`;
  element.title = `${ORIGINS[token.origin]} (${writer})`;
  element.textContent = token.text;
  return element;
}

function aheadElement(token, kind) {
  const element = document.createElement("span");
  element.className = `t ${kind}`;
  element.textContent = token.text;
  // A screen reader reads final text only: drafts come and go too fast to be spoken.
  element.setAttribute("aria-hidden", "true");
  return element;
}

/** Shows a text in a `pre`, touching only what changed: a long text is not laid out anew for each token. */
class View {
  constructor(pre) {
    this.pre = pre;
    this.shown = 0;
    this.tail = [];
  }

  show(text, chain) {
    this.tail.forEach((element) => element.remove());
    while (this.shown > text.tokens.length) {
      this.pre.lastChild.remove();
      this.shown -= 1;
    }
    for (const token of text.tokens.slice(this.shown)) this.pre.append(tokenElement(token, chain));
    this.shown = text.tokens.length;
    this.tail = [
      ...text.ahead.map((token) => aheadElement(token, "provisional")),
      ...text.retracted.map((token) => aheadElement(token, "retracted")),
    ];
    this.pre.append(...this.tail);
  }
}

// --- asking the endpoint --------------------------------------------------------------------------------------------------

/** Fetch with the API key where there is one; where one is missing, ask for it. */
async function call(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  $("unlock").hidden = response.status !== 401;
  const said = await response.json().catch(() => null);
  throw new Error(said?.error?.message ?? `The endpoint answered ${response.status}.`);
}

// --- a generation: live, then to replay -----------------------------------------------------------------------------------

const state = { chain: [], events: [], live: null, abort: null, messages: [], view: null, timer: null };

function addArticle(title, className, content) {
  $("empty")?.remove();
  const article = document.createElement("article");
  const heading = document.createElement("h2");
  heading.textContent = title;
  const pre = document.createElement("pre");
  pre.className = className;
  pre.textContent = content;
  article.append(heading, pre);
  $("log").append(article);
  return article;
}

function note(article, content, isBad = false) {
  const element = document.createElement("p");
  element.className = isBad ? "note bad" : "note";
  element.textContent = content;
  article.append(element);
  follow();
}

function follow() {
  $("log").scrollTop = $("log").scrollHeight;
}

function settings() {
  const number = (id) => Number($(id).value);
  return {
    mode: $("mode").value,
    temperature: number("temperature"),
    top_p: number("top_p"),
    seed: number("seed"),
    max_tokens: number("max_tokens"),
    provisional: $("provisional").checked,
  };
}

async function write(prompt) {
  const isChat = $("as").value === "chat";
  if (!isChat) state.messages = [];
  state.messages.push({ role: "user", content: prompt });
  const asked = isChat ? { messages: state.messages } : { prompt };
  addArticle(isChat ? "You" : "Prompt", "prompt", prompt);
  const article = addArticle(isChat ? "Answer" : "Text", "answer", "");
  state.view = new View(article.querySelector("pre"));
  state.live = new Text();
  state.events = [];
  state.abort = new AbortController();
  busy(true);
  complain("");
  try {
    await receive({ ...settings(), ...asked }, article);
  } catch (error) {
    if (error.name === "AbortError") note(article, "Stopped.");
    else note(article, error.message, true), complain(error.message);
  } finally {
    const content = state.live.tokens.map((token) => token.text).join("");
    if (isChat) state.messages.push({ role: "assistant", content });
    state.live.ahead = [];
    state.live.retracted = [];
    state.view.show(state.live, state.chain);
    busy(false);
    offerReplay();
  }
}

async function receive(body, article) {
  const response = await call("playground/generate", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: state.abort.signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) onEvent(JSON.parse(line.slice(6)), article);
  }
}

function onEvent(event, article) {
  state.events.push(event);
  if (event.type === "start") showChain(event.chain);
  else if (event.type === "link") showLink(event.is_up);
  else if (event.type === "gauges") showGauges(event);
  else if (event.type === "done") note(article, event.summary);
  else if (event.type === "error") throw new Error(event.message);
  else {
    state.live.apply(event);
    state.view.show(state.live, state.chain);
    if (event.type === "tokens") addRound(event);
    follow();
  }
}

// --- what is beside the text ----------------------------------------------------------------------------------------------

function showChain(names) {
  state.chain = names;
  $("chain").replaceChildren(
    ...names.map((name) => Object.assign(document.createElement("li"), { textContent: name })),
  );
}

function showLink(isUp) {
  $("link").dataset.up = String(isUp);
  $("link").textContent = isUp ? "connected" : "the verifier cannot be reached";
}

function showGauges(now) {
  const ratio = now.cloud_tokens_per_s ? now.tokens_per_s / now.cloud_tokens_per_s : null;
  $("g-speed").textContent =
    `${now.tokens_per_s.toFixed(0)} tokens/s` +
    (ratio === null ? "" : ` · ${ratio.toFixed(1)}× the cloud alone (about ${now.cloud_tokens_per_s.toFixed(0)})`);
  $("m-speed").value = ratio ?? 0;
  $("g-acceptance").textContent = now.acceptance === null ? "–" : `${(100 * now.acceptance).toFixed(0)} %`;
  $("m-acceptance").value = now.acceptance ?? 0;
  $("g-trip").textContent = now.round_trip_s ? `${(1000 * now.round_trip_s).toFixed(1)} ms` : "–";
  $("g-passes").textContent = now.passes_per_token === null ? "–" : now.passes_per_token.toFixed(2);
  $("g-action").textContent = now.why ? `${now.action} (${now.why})` : now.action;
}

function addRound(event) {
  const kept = event.tokens.filter((token) => token.origin === "accepted").length;
  const next = event.tokens.filter((token) => token.origin !== "accepted");
  const row = document.createElement("tr");
  const cells = [
    `${(1000 * event.at_s).toFixed(0)} ms`,
    String(kept),
    next.map((token) => `${token.origin} ${JSON.stringify(token.text)}`).join(", ") || "–",
  ];
  row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  $("rounds").append(row);
  row.parentElement.parentElement.parentElement.scrollTop = 1e6;
}

function complain(message) {
  $("alert").textContent = message;
}

function busy(isBusy) {
  $("send").disabled = isBusy;
  $("stop").disabled = !isBusy;
  $("log").setAttribute("aria-busy", String(isBusy));
  if (isBusy) {
    $("rounds").replaceChildren();
    $("round").disabled = $("play").disabled = true;
    pause();
  }
}

// --- replay ---------------------------------------------------------------------------------------------------------------

const verdicts = () => state.events.filter((event) => event.type === "tokens").length;

function offerReplay() {
  const count = verdicts();
  $("round").max = String(count);
  $("round").value = String(count);
  $("round").disabled = $("play").disabled = count === 0;
  markRound(count);
}

/** The text as it was after some verdicts, with what was drafted beyond it then. */
function textAfter(count) {
  const text = new Text();
  let seen = 0;
  for (const event of state.events) {
    if (event.type === "tokens") {
      if (seen === count) break;
      seen += 1;
    }
    text.apply(event);
  }
  text.retracted = [];
  if (count === verdicts()) text.ahead = [];
  return text;
}

function showRound(count) {
  state.view.show(textAfter(count), state.chain);
  markRound(count);
}

function markRound(count) {
  $("round-of").textContent = `${count} of ${verdicts()}`;
  [...$("rounds").children].forEach((row, index) => row.setAttribute("aria-current", String(index === count - 1)));
}

function pause() {
  clearInterval(state.timer);
  state.timer = null;
  $("play").textContent = "Play";
}

function play() {
  if (state.timer !== null) return pause();
  if (Number($("round").value) === verdicts()) $("round").value = "0";
  $("play").textContent = "Pause";
  state.timer = setInterval(() => {
    const next = Number($("round").value) + 1;
    $("round").value = String(next);
    showRound(next);
    if (next >= verdicts()) pause();
  }, 250);
}

// --- the page -------------------------------------------------------------------------------------------------------------

function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
}

async function describe() {
  try {
    const about = await (await call("playground/about")).json();
    $("unlock").hidden = true;
    complain("");
    $("mode").replaceChildren(...about.modes.map((name) => new Option(name, name, name === about.mode, name === about.mode)));
    showChain(about.chain);
    showLink(about.is_up);
    if (about.reason) $("link").textContent = about.reason;
    if (!about.has_chat_template) $("as").querySelector('[value="chat"]').disabled = true;
    else $("as").value = "chat";
  } catch (error) {
    showLink(false);
    $("link").textContent = error instanceof TypeError ? "the endpoint does not answer" : "locked";
    complain(error instanceof TypeError ? "" : error.message);
  }
}

function begin() {
  const prompt = $("prompt").value || $("prompt").placeholder;
  if (state.abort === null || $("send").disabled === false) {
    $("prompt").value = "";
    write(prompt);
  }
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  begin();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("send").disabled) begin();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") state.abort?.abort();
});
$("stop").addEventListener("click", () => state.abort?.abort());
$("clear").addEventListener("click", () => {
  state.abort?.abort();
  state.messages = [];
  state.events = [];
  $("log").replaceChildren();
  $("rounds").replaceChildren();
  offerReplay();
});
$("round").addEventListener("input", () => {
  pause();
  showRound(Number($("round").value));
});
$("play").addEventListener("click", play);
$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  describe();
});
$("theme").addEventListener("change", () => setTheme($("theme").value));
$("theme").value = localStorage.getItem("theme") ?? "auto";
setTheme($("theme").value);
$("legend").append(
  ...Object.entries({
    ...ORIGINS,
    by1: "underlined: by a relay on the way",
    provisional: "a draft, not checked yet",
    struck: "a draft taken back",
  }).map(([origin, meaning]) => {
    const item = document.createElement("li");
    item.append(Object.assign(document.createElement("span"), { className: `t ${origin}`, textContent: "abc" }), ` ${meaning}`);
    return item;
  }),
);
describe();
