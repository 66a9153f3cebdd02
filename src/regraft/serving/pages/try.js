"use strict";

const SHOWN = 5;       // classes with a bar of their own
const AT_A_TIME = 4;   // requests
const TRIES = 6;       // where the server says that it is busy

const at = (id) => document.getElementById(id);
const percent = (p) => (p > 0 && p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

let served = null;
let running = 0;
let generation = 0;    // clearing starts a new one: answers of an older one are dropped
const waiting = [];
const addresses = [];  // of previews, to be given back

async function ask(address, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(address, { ...options, headers });
  if (answer.status === 401) { at("door").hidden = false; at("token").focus(); }
  return answer;
}

async function start() {
  const answer = await ask("/classes").catch(() => null);
  if (!answer || !answer.ok) return;
  served = await answer.json();
  at("door").hidden = true;
  document.title = served.model;
  at("model").textContent = served.model;
  const names = served.classes.slice(0, 8).join(", ");
  at("about").textContent = `${served.classes.length} classes: ${names}${served.classes.length > 8 ? ", …" : ""}`;
}

function add(files) {
  if (!files.length) return;
  document.body.classList.add("filled");
  for (const file of files) waiting.push({ file, card: newCard(file), generation });
  tell();
  work();
}

function newCard(file) {
  const card = at("card").content.firstElementChild.cloneNode(true);
  const image = card.querySelector("img");
  image.addEventListener("error", () => image.parentElement.classList.add("none"));
  addresses.push(image.src = URL.createObjectURL(file));
  card.querySelector("h2").textContent = "Looking …";
  card.querySelector(".name").textContent = file.name;
  at("gallery").prepend(card);
  return card;
}

function work() {
  while (running < AT_A_TIME && waiting.length) {
    running += 1;
    const one = waiting.shift();
    classify(one.file)
      .then((prediction) => show(one, prediction), (error) => fail(one, error.message))
      .finally(() => { running -= 1; tell(); work(); });
  }
}

async function classify(file) {
  if (served && file.size > served.max_body) {
    const mb = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MB`;
    throw new Error(`It has ${mb(file.size)}; this server takes up to ${mb(served.max_body)}.`);
  }
  const headers = { "Content-Type": "application/octet-stream" };
  for (let tries = 1; ; tries += 1) {
    const answer = await ask("/predict", { method: "POST", headers, body: file }).catch(() => null);
    if (answer === null) throw new Error("The server can't be reached.");
    if (answer.ok) return (await answer.json()).predictions[0];
    if (answer.status !== 503 || tries === TRIES) throw new Error((await problem(answer)) || "The server failed.");
    await new Promise((go) => setTimeout(go, 1000 * (Number(answer.headers.get("Retry-After")) || 1)));
  }
}

async function problem(answer) {
  const { detail } = await answer.json().catch(() => ({}));
  return detail && `${detail[0].toUpperCase()}${detail.slice(1)}.`;
}

function show({ file, card, generation: of }, prediction) {
  if (of !== generation) return;
  card.classList.remove("waiting");
  card.querySelector("h2").textContent = prediction.label;
  card.querySelector("img").alt = `${file.name}: ${prediction.label}`;
  if (prediction.unknown) note(card, "unlike what the model learned", "unknown");
  if (prediction.decision) {
    note(card, prediction.decision === "ask" ? "ask a person" : `decision: ${prediction.decision}`, "decision");
  }
  const sorted = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  card.querySelector(".bars").append(...sorted.slice(0, SHOWN).map(line));
  if (sorted.length > SHOWN) {
    const more = card.querySelector("details");
    more.hidden = false;
    more.querySelector("summary").textContent = `${sorted.length - SHOWN} more`;
    more.querySelector(".bars").append(...sorted.slice(SHOWN).map(line));
  }
  say(`${file.name}: ${prediction.label}, ${percent(prediction.probability)}${
    prediction.unknown ? ", unlike what the model learned" : ""}`);
}

function fail({ file, card, generation: of }, reason) {
  if (of !== generation) return;
  card.classList.remove("waiting");
  card.classList.add("failed");
  card.querySelector("h2").textContent = "No answer";
  note(card, reason, "reason");
  say(`${file.name}: no answer. ${reason}`);
}

function line([name, probability]) {
  const item = at("line").content.firstElementChild.cloneNode(true);
  item.querySelector(".class").textContent = name;
  item.querySelector(".share").textContent = percent(probability);
  item.querySelector(".track").style.setProperty("--share", probability);
  return item;
}

function note(card, text, kind) {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = text;
  card.querySelector(".notes").append(span);
}

function say(text) {
  at("status").textContent = text;
}

function tell() {
  const cards = at("gallery").children.length;
  const open = waiting.length + running;
  at("bar").hidden = cards === 0;
  at("gallery").classList.toggle("one", cards === 1);
  at("count").textContent = plural(cards, "picture") + (open ? `, ${open} to go` : "");
}

function clear() {
  generation += 1;
  waiting.length = 0;
  for (const address of addresses.splice(0)) URL.revokeObjectURL(address);
  at("gallery").replaceChildren();
  document.body.classList.remove("filled");
  tell();
  say("Cleared");
  at("pick").focus();
}

for (const input of [at("pick"), at("camera")]) {
  input.addEventListener("change", () => { add([...input.files]); input.value = ""; });
}
at("clear").addEventListener("click", clear);
at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", at("token").value.trim());
  start();
});
addEventListener("paste", (event) => add([...event.clipboardData.files]));
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  add([...event.dataTransfer.files]);
});
start();
