// Which backbone, data and protocol are shown; then everything is put together.
(() => {
  const parts = [...document.querySelectorAll("[data-place]")];
  const protocolsOf = (part) => part.dataset.protocol.split(" ");
  const places = [...new Set(parts.map((part) => part.dataset.place))];
  const pickers = { place: document.getElementById("place"), protocol: document.getElementById("protocol") };
  const ofPlace = (place) => [...new Set(parts.filter((part) => part.dataset.place === place).flatMap(protocolsOf))];

  const show = (place, protocol) => {
    if (!parts.length) return;
    const state = page.state;
    state.place = places.includes(place) ? place : places[0];
    const known = ofPlace(state.place);
    state.protocol = known.includes(protocol) ? protocol : protocolsOf(parts.find((part) => part.dataset.place === state.place))[0];
    parts.forEach((part) => {
      part.hidden = part.dataset.place !== state.place || !protocolsOf(part).includes(state.protocol);
    });
    pickers.place.value = state.place;
    [...pickers.protocol.options].forEach((option) => { option.disabled = !known.includes(option.value); });
    pickers.protocol.value = state.protocol;
    page.onSwitch.forEach((then) => then());
  };

  const follow = () => {
    const given = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    ["a", "b"].forEach((name) => { if (given.has(name)) page.state[name] = given.get(name); });
    show(given.get("place") || page.state.place, given.get("protocol") || page.state.protocol);
    const [number, column, direction] = (given.get("sort") || "").split(":");
    const sort = page.sorters[number];
    if (sort) sort(Number(column), direction === "descending" ? direction : "ascending");
    if (given.has("filter") && page.filterCells) {
      document.getElementById("filter").value = given.get("filter");
      page.filterCells(given.get("filter"));
    }
  };

  const tables = [...document.querySelectorAll("table")].filter((table) => table.tHead);
  tables.forEach(page.makeSortable);
  tables.filter((table) => table.dataset.file).forEach((table) => page.makeDownload(table, () => page.textOf(table)));
  page.makePlots();
  page.makeVersus();
  page.makeCells(tables.length);
  if (parts.length) {
    document.getElementById("switch").hidden = false;
    Object.entries(pickers).forEach(([name, picker]) => picker.addEventListener("change", () => {
      show(pickers.place.value, name === "protocol" ? picker.value : page.state.protocol);
      page.remember();
    }));
  }
  follow();
  addEventListener("hashchange", follow);
})();
