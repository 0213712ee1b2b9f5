"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const made = (name, text, kind) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  let adapters = [], token = "", asked = 0;

  // The answer as JSON; an error's line is thrown, with its status.
  const ask = async (path, body) => {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    if (body) headers["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
    } catch {
      throw new Error("the server does not answer");
    }
    const value = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(value.error), { status: answer.status });
    return value;
  };

  const chosen = () => adapters.find((one) => one.id === $("adapter").value);
  const showFields = () => {
    const entry = chosen(), pair = Boolean(entry && entry.pair);
    $("pair-field").hidden = !pair;
    $("pair").required = pair;
    $("text-label").textContent = pair ? "First text" : "Text";
    $("go").disabled = !entry;
  };

  const named = (one) => `${one.task} ${one.method}, seed ${one.seed}`;
  const fill = () => {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const before = $("adapter").value;
    const shown = adapters.filter((one) => words.every((word) => `${named(one)} ${one.id}`.toLowerCase().includes(word)));
    const groups = new Map();
    shown.forEach((one) => {
      if (!groups.has(one.task)) groups.set(one.task, Object.assign(made("optgroup"), { label: one.task }));
      const option = made("option", `${named(one)}: ${(100 * one.score).toFixed(1)} on dev (${one.id})`);
      option.value = one.id;
      groups.get(one.task).append(option);
    });
    $("adapter").replaceChildren(...groups.values());
    if (shown.some((one) => one.id === before)) $("adapter").value = before;
    $("count").textContent = `${shown.length} of ${adapters.length} adapters`;
    showFields();
  };

  const load = async () => {
    try {
      const told = await ask("adapters");
      const order = (one) => `${one.task} ${one.method} ${String(one.seed).padStart(12, "0")}`;
      adapters = told.adapters.sort((a, b) => order(a).localeCompare(order(b), "en", { numeric: true }));
      const models = [...new Set(adapters.map((one) => one.model))].join(", ");
      $("about").textContent = `Trained adapters: ${adapters.length}, over one ${models} backbone.`;
      const hadFocus = $("token-form").contains(document.activeElement);
      $("token-form").hidden = true;
      $("form").hidden = false;
      fill();
      if (hadFocus) $("filter").focus();
    } catch (error) {
      $("about").textContent = error.status === 401 && !token ? "This server asks for its token." : `Error: ${error.message}`;
      $("token-form").hidden = error.status !== 401;
      if (error.status === 401) $("token").focus();
    }
  };

  const table = (shares) => {
    const rows = Object.entries(shares).sort((a, b) => b[1] - a[1]);
    const body = made("table"), head = body.createTHead().insertRow();
    ["label", "probability", ""].forEach((name) => {
      const cell = name ? Object.assign(made("th", name), { scope: "col" }) : made("td");
      head.append(cell);
    });
    const lines = body.createTBody();
    rows.forEach(([label, share], at) => {
      const line = lines.insertRow(), bar = made("meter");
      if (at === 0) line.className = "best";
      line.append(Object.assign(made("th", label), { scope: "row" }), made("td", `${(100 * share).toFixed(1)} %`, "number"));
      bar.value = share;
      bar.setAttribute("aria-hidden", "true");
      line.insertCell().append(bar);
    });
    return body;
  };

  const predict = async () => {
    const entry = chosen(), number = ++asked;
    if (!entry || !$("form").reportValidity()) return;
    const body = { adapter: entry.id, text: $("text").value };
    if (entry.pair) body.text_pair = $("pair").value;
    $("go").setAttribute("aria-busy", "true");
    let parts;
    try {
      const answer = await ask("predict", body);
      parts = answer.probabilities
        ? [made("h2", answer.label), table(answer.probabilities)]
        : [made("h2", answer.score.toFixed(3))];
      parts.splice(1, 0, made("p", `by ${named(entry)}`, "note"));
    } catch (error) {
      parts = [made("p", `Error: ${error.message}`, "wrong")];
    }
    if (number !== asked) return; // a later question has been asked
    $("go").removeAttribute("aria-busy");
    $("result").replaceChildren(...parts);
  };

  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token = $("token").value.trim();
    load();
  });
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    predict();
  });
  ["text", "pair"].forEach((name) => $(name).addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      predict();
    }
  }));
  $("filter").addEventListener("input", fill);
  $("adapter").addEventListener("change", showFields);
  load();
})();
