// xterm.js under a Content-Security-Policy without inline styles. It makes <style> elements and sets style attributes,
// which the policy blocks; the same rules set by script (CSSOM) are allowed. So this document makes a sheet in place of a
// <style>, and a <span> takes its style attribute as a property. Nothing else of the page does either.

class Sheet extends HTMLElement {
  #rules = new CSSStyleSheet();

  connectedCallback() {
    document.adoptedStyleSheets.push(this.#rules);
  }

  disconnectedCallback() {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== this.#rules);
  }

  set textContent(rules) {
    this.#rules.replaceSync(rules);
  }
}

customElements.define("terminal-sheet", Sheet);

document.createElement = (tag, options) =>
  Document.prototype.createElement.call(document, tag === "style" ? "terminal-sheet" : tag, options);

HTMLSpanElement.prototype.setAttribute = function setAttribute(name, value) {
  if (name === "style") this.style.cssText = value;
  else Element.prototype.setAttribute.call(this, name, value);
};
