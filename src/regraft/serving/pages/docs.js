"use strict";

for (const place of document.querySelectorAll(".here")) place.textContent = location.origin;

fetch("/openapi.json").then((answer) => answer.json()).then(({ paths }) => {
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, { summary }] of Object.entries(methods)) {
      const row = document.getElementById("addresses").insertRow();
      for (const text of [method.toUpperCase(), path, summary]) row.insertCell().textContent = text;
    }
  }
});
