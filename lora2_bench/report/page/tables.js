"use strict";
// The page is whole without these scripts; they add switches, sorting, comparisons, the list of cells and downloads.
const page = { state: { place: "", protocol: "", sort: "", filter: "", a: "", b: "" }, sorters: [], onSwitch: [] };

page.element = (name, text) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
};

// State is in the address, as #protocol=last&sort=2:3:descending&filter=rte, so that a view can be shared.
page.remember = () => {
  const parts = Object.entries(page.state).filter(([, value]) => value).map(([name, value]) =>
    `${name}=${encodeURIComponent(value)}`);
  try { history.replaceState(null, "", "#" + parts.join("&")); } catch { /* a page without an address of its own */ }
};

// "83.1 ± 0.4 (3)" and "✓ 83.1" sort by 83.1, a sentence that starts with a figure does not.
page.numberOf = (text) => {
  const found = /^[^\p{L}\d]*?([-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)\s?([kMG])?(?![\p{L}\d.])/u.exec(text.trim());
  if (!found || /\p{L}{3}/u.test(text)) return NaN;
  const unit = { k: 1e3, M: 1e6, G: 1e9 }[found[2]] || 1;
  return Number(found[1].replace(/,/g, "").replace("−", "-")) * unit;
};

// What has no figure comes last.
page.compare = (a, b, direction) => {
  const missing = (value) => value === null || value === "" || Number.isNaN(value);
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
  return direction === "descending" ? -order : order;
};

page.mark = (headers, column, direction) => headers.forEach((header, index) => {
  if (index === column) header.setAttribute("aria-sort", direction);
  else header.removeAttribute("aria-sort");
});

page.makeButtons = (headers, sort) => headers.forEach((header, index) => {
  if (!header.textContent.trim()) return; // a button needs a name
  const button = page.element("button");
  button.type = "button";
  button.append(...header.childNodes);
  header.append(button);
  button.addEventListener("click", () => {
    sort(index, header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
    page.remember();
  });
});

page.makeSortable = (table, number) => {
  const headers = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  if (!body) return;
  const rows = [...body.rows];
  const texts = rows.map((row) => headers.map((_, index) => (row.cells[index] ? row.cells[index].textContent : "")));
  // A row whose first two cells are empty belongs to the row above it and moves with it.
  const groups = [];
  rows.forEach((row, index) => {
    if (!groups.length || texts[index].slice(0, 2).join("").trim()) groups.push({ texts: texts[index], rows: [] });
    groups[groups.length - 1].rows.push(row);
  });
  const isNumeric = headers.map((_, index) => {
    const filled = texts.map((row) => row[index].trim()).filter((text) => text && text !== "–");
    return filled.length > 0 && filled.filter((text) => !Number.isNaN(page.numberOf(text))).length > filled.length / 2;
  });
  isNumeric.forEach((numeric, index) => {
    if (numeric) [headers[index], ...rows.map((row) => row.cells[index])].forEach((cell) =>
      cell && cell.classList.add("number"));
  });
  const sort = (column, direction) => {
    if (!headers[column]) return;
    const key = (group) => (isNumeric[column] ? page.numberOf(group.texts[column]) : group.texts[column].trim());
    const order = [...groups].sort((a, b) => page.compare(key(a), key(b), direction));
    body.append(...order.flatMap((group) => group.rows));
    page.mark(headers, column, direction);
    page.state.sort = `${number}:${column}:${direction}`;
  };
  page.makeButtons(headers, sort);
  page.sorters[number] = sort;
};

// A cell that a spreadsheet would take for a formula gets an apostrophe before it.
page.csv = (rows) => rows.map((row) => row.map((value) => {
  let text = value === null || value === undefined ? "" : String(value);
  if (/^[=+@\t\r]|^-(?![\d.])/.test(text)) text = "'" + text;
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}).join(",")).join("\n") + "\n";

page.download = (name, text) => {
  const link = page.element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = `${name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

page.makeDownload = (table, rowsOf) => {
  const button = page.element("button", "CSV");
  button.type = "button";
  button.className = "csv";
  button.setAttribute("aria-label", `Download as CSV: ${table.parentElement.getAttribute("aria-label")}`);
  button.addEventListener("click", () => page.download(table.dataset.file, page.csv(rowsOf())));
  table.parentElement.before(button);
};

page.textOf = (table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim()));
