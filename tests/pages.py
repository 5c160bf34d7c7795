"""What tests ask of a page in a browser."""


def boxes(page, selector):
    return page.eval_on_selector_all(
        selector,
        """found => found.map(e => { const b = e.getBoundingClientRect();
           return {x: b.x, y: b.y, w: b.width, h: b.height, text: e.textContent.trim()}; })""",
    )


def box(page, selector):
    (found,) = boxes(page, selector)
    return found


def overflows(page):
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def open_details(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
