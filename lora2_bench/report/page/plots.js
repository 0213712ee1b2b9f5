// Marks of the plots say who they are, and the legend switches them.
page.makePlots = () => {
  const tip = document.getElementById("tip");
  const show = (mark, x, y) => {
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - tip.offsetHeight - 8))}px`;
  };
  const hide = () => { tip.hidden = true; };
  document.querySelectorAll(".mark").forEach((mark) => {
    mark.addEventListener("pointermove", (event) => show(mark, event.clientX, event.clientY));
    mark.addEventListener("pointerleave", hide);
    mark.addEventListener("focus", () => {
      const box = mark.getBoundingClientRect();
      show(mark, box.left, box.bottom);
    });
    mark.addEventListener("blur", hide);
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  const off = new Set();
  document.querySelectorAll(".legend button").forEach((button) => button.addEventListener("click", () => {
    const label = button.dataset.label;
    if (off.has(label)) off.delete(label);
    else off.add(label);
    document.querySelectorAll(".legend button").forEach((other) => {
      if (other.dataset.label === label) other.setAttribute("aria-pressed", String(!off.has(label)));
    });
    document.querySelectorAll(".mark").forEach((mark) => {
      if (mark.dataset.label === label) mark.classList.toggle("off", off.has(label));
    });
  }));
};
