"use strict";
// Every picture lies in the page once, in a block of its own, and is shown wherever it is asked for by name.
const pictures = JSON.parse(document.getElementById("pictures").textContent);
for (const image of document.querySelectorAll("img[data-picture]")) image.src = pictures[image.dataset.picture];

// The slider and the switch of every usage map colour its cells from the numbers beside it. An address that ends in
// #epoch=3 opens the page there.
for (const map of document.querySelectorAll("[data-map]")) {
  const data = JSON.parse(map.querySelector('script[type="application/json"]').textContent);
  const slider = map.querySelector('input[type="range"]');
  const shown = map.querySelector("output");
  const readout = map.querySelector(".readout");
  const cells = [...map.querySelectorAll(".cell")];
  let pointed = null;

  const split = () => map.querySelector('input[type="radio"]:checked').value;
  const share = (cell) => data.splits[split()][Number(slider.value)][Number(cell.dataset.c)];
  const inWords = (value) => (value === null ? "no number" : `${(100 * value).toFixed(1)} %`);
  const told = (cell) => `${data.names[cell.dataset.c]}: ${inWords(share(cell))}`;

  const draw = () => {
    shown.textContent = data.epochs[Number(slider.value)];
    for (const cell of cells) {
      cell.classList.toggle("unknown", share(cell) === null);
      cell.style.setProperty("--t", share(cell) ?? 0);
      cell.firstElementChild.textContent = told(cell);
    }
    if (pointed) readout.textContent = told(pointed);
  };
  const point = (event) => {
    if (!event.target.classList.contains("cell")) return;
    pointed?.classList.remove("pointed");
    pointed = event.target;
    pointed.classList.add("pointed");
    readout.textContent = told(pointed);
  };
  const open = () => {
    const asked = /epoch=(\d+)/.exec(location.hash);
    const place = asked ? data.epochs.indexOf(Number(asked[1])) : -1;
    if (place >= 0) slider.value = place;
    draw();
  };

  map.addEventListener("input", draw);
  map.addEventListener("pointerover", point);
  map.addEventListener("click", point);
  addEventListener("hashchange", open);
  open();
}
