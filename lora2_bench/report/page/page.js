"use strict";
// The page is whole without this script; it adds the protocol switch, sorting and the list of cells.
// State is in the address, as #protocol=last&sort=2:3:descending&filter=rte, so that a view can be shared.
(() => {
  const COLUMNS = ["cell", "status", "backbone", "data", "method", "task", "protocol", "seed", "best", "looks at dev",
    "last", "seconds"];
  const NUMERIC = new Set([7, 8, 9, 10, 11]);
  const DIGITS = { 8: 2, 10: 2, 11: 1 };
  const COMMAND = 12, SUMMARY = 13, ROWS_AT_ONCE = 100;
  const state = { protocol: "", sort: "", filter: "" };

  const element = (name, text) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // "83.1 ± 0.4 (3)" sorts by 83.1, a sentence that starts with a figure does not; what has no figure comes last.
  const numberOf = (text) => {
    const found = /^[^\p{L}\d]*?([-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)\s?([kMG])?(?![\p{L}\d.])/u.exec(text.trim());
    if (!found || /\p{L}{3}/u.test(text)) return NaN;
    const unit = { k: 1e3, M: 1e6, G: 1e9 }[found[2]] || 1;
    return Number(found[1].replace(/,/g, "").replace("−", "-")) * unit;
  };
  const compare = (a, b, direction) => {
    const missing = (value) => value === null || value === "" || Number.isNaN(value);
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
    return direction === "descending" ? -order : order;
  };

  const remember = () => {
    const parts = Object.entries(state).filter(([, value]) => value).map(([name, value]) =>
      `${name}=${encodeURIComponent(value)}`);
    try { history.replaceState(null, "", "#" + parts.join("&")); } catch { /* a page without an address of its own */ }
  };

  const mark = (headers, column, direction) => headers.forEach((header, index) => {
    if (index === column) header.setAttribute("aria-sort", direction);
    else header.removeAttribute("aria-sort");
  });

  const makeButtons = (headers, sort) => headers.forEach((header, index) => {
    if (!header.textContent.trim()) return; // a button needs a name
    const button = element("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      sort(index, header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
      remember();
    });
  });

  const sorters = [];
  const makeSortable = (table, number) => {
    const headers = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    if (!body) return;
    const rows = [...body.rows];
    const texts = rows.map((row) => headers.map((_, index) => (row.cells[index] ? row.cells[index].textContent : "")));
    // A row without a name belongs to the row above it ("printed", "difference") and moves with it.
    const groups = [];
    rows.forEach((row, index) => {
      if (!groups.length || texts[index][0].trim()) groups.push({ texts: texts[index], rows: [] });
      groups[groups.length - 1].rows.push(row);
    });
    const isNumeric = headers.map((_, index) => {
      const filled = texts.map((row) => row[index].trim()).filter((text) => text && text !== "–");
      return filled.length > 0 && filled.filter((text) => !Number.isNaN(numberOf(text))).length > filled.length / 2;
    });
    isNumeric.forEach((numeric, index) => {
      if (numeric) [headers[index], ...rows.map((row) => row.cells[index])].forEach((cell) =>
        cell && cell.classList.add("number"));
    });
    const sort = (column, direction) => {
      if (!headers[column]) return;
      const key = (group) => (isNumeric[column] ? numberOf(group.texts[column]) : group.texts[column].trim());
      const order = [...groups].sort((a, b) => compare(key(a), key(b), direction));
      body.append(...order.flatMap((group) => group.rows));
      mark(headers, column, direction);
      state.sort = `${number}:${column}:${direction}`;
    };
    makeButtons(headers, sort);
    sorters[number] = sort;
  };

  const showProtocol = (name) => {
    state.protocol = name;
    document.querySelectorAll("[data-protocol]").forEach((part) => {
      part.hidden = name !== "all" && part.dataset.protocol !== name;
    });
    document.querySelectorAll("#switch input").forEach((input) => { input.checked = input.value === name; });
  };

  const protocols = [...new Set([...document.querySelectorAll("[data-protocol]")].map((part) => part.dataset.protocol))];
  const makeSwitch = () => {
    if (!protocols.length) return;
    document.getElementById("switch").hidden = false;
    document.querySelectorAll("#switch input").forEach((input) => {
      if (input.value !== "all" && !protocols.includes(input.value)) input.closest("label").hidden = true;
      input.addEventListener("change", () => { showProtocol(input.value); remember(); });
    });
  };

  const cells = { all: [], shown: [], count: ROWS_AT_ONCE };
  // The id opens and closes a row of its own below the cell's.
  const idButton = (row, line) => {
    const button = element("button", row[0]);
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const isOpen = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!isOpen));
      if (isOpen) {
        line.nextElementSibling.remove();
        return;
      }
      const details = element("td");
      details.colSpan = COLUMNS.length;
      const box = element("div");
      box.className = "details";
      box.append(element("p", `Record: cells/${row[0]}/record.json`), element("pre", row[COMMAND]),
        element("pre", JSON.stringify(row[SUMMARY], null, 1)));
      details.append(box);
      const below = element("tr");
      below.append(details);
      line.after(below);
    });
    return button;
  };
  const shown = (value, index) => {
    if (value === null) return "–";
    return index in DIGITS ? value.toFixed(DIGITS[index]) : String(value);
  };
  const showCells = () => {
    const body = document.querySelector("#cell-table tbody");
    body.replaceChildren(...cells.shown.slice(0, cells.count).map((row) => {
      const line = element("tr");
      COLUMNS.forEach((_, index) => {
        const cell = element("td", index === 0 ? undefined : shown(row[index], index));
        if (index === 0) cell.append(idButton(row, line));
        if (NUMERIC.has(index)) cell.className = "number";
        if (index === 1 && row[index] !== "done") cell.className = "failed";
        line.append(cell);
      });
      return line;
    }));
    const seen = Math.min(cells.count, cells.shown.length);
    document.getElementById("count").textContent = `${seen} of ${cells.shown.length} shown, ${cells.all.length} in all`;
    document.getElementById("more").hidden = seen === cells.shown.length;
  };
  const filterCells = (text) => {
    state.filter = text;
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    cells.shown = cells.all.filter((row) => words.every((word) => row.text.includes(word)));
    cells.count = ROWS_AT_ONCE;
    showCells();
  };
  const makeCells = (number) => {
    const source = document.getElementById("cell-data");
    if (!source) return;
    cells.all = JSON.parse(source.textContent);
    cells.all.forEach((row) => {
      row.text = row.slice(0, 8).join(" ").toLowerCase();
      row[11] = row[11] === undefined ? null : row[11];
    });
    const table = document.getElementById("cell-table");
    const line = table.createTHead().insertRow();
    const headers = COLUMNS.map((name, index) => {
      const header = element("th", name);
      if (NUMERIC.has(index)) header.className = "number";
      line.append(header);
      return header;
    });
    table.createTBody();
    const sort = (column, direction) => {
      if (!headers[column]) return;
      cells.all.sort((a, b) => compare(a[column], b[column], direction));
      mark(headers, column, direction);
      state.sort = `${number}:${column}:${direction}`;
      filterCells(state.filter);
    };
    makeButtons(headers, sort);
    sorters[number] = sort;
    document.getElementById("filter").addEventListener("input", (event) => {
      filterCells(event.target.value);
      remember();
    });
    document.getElementById("more").addEventListener("click", () => {
      cells.count += ROWS_AT_ONCE;
      showCells();
    });
    filterCells("");
  };

  const follow = () => {
    const given = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    const wanted = given.get("protocol");
    const first = ["paper", "last", "clean"].find((name) => protocols.includes(name));
    if (protocols.length && (!state.protocol || wanted)) {
      showProtocol(protocols.includes(wanted) || wanted === "all" ? wanted : first);
    }
    const [number, column, direction] = (given.get("sort") || "").split(":");
    if (sorters[number]) sorters[number](Number(column), direction === "descending" ? direction : "ascending");
    if (given.has("filter") && cells.all.length) {
      document.getElementById("filter").value = given.get("filter");
      filterCells(given.get("filter"));
    }
  };

  const tables = [...document.querySelectorAll("table")].filter((table) => table.tHead);
  tables.forEach(makeSortable);
  makeSwitch();
  makeCells(tables.length);
  follow();
  window.addEventListener("hashchange", follow);
})();
