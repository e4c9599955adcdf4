() => {
    // A picture may be dropped or pasted anywhere, not only where Gradio takes it.
    const take = (event, data) => {
        const input = document.querySelector('#picture input[type=file]')
        if (event.defaultPrevented || !data?.files.length) return
        event.preventDefault()
        if (!input) return
        const first = new DataTransfer()
        first.items.add(data.files[0])
        input.files = first.files
        input.dispatchEvent(new Event('change', { bubbles: true }))
    }
    document.addEventListener('dragover', event => event.preventDefault())
    document.addEventListener('drop', event => take(event, event.dataTransfer))
    document.addEventListener('paste', event => take(event, event.clipboardData))

    // A picture of a few pixels is shown enlarged, with its pixels as squares.
    document.addEventListener('load', event => {
        const image = event.target
        if (image.matches?.('#picture img')) image.toggleAttribute('data-small', image.naturalWidth < 128)
    }, true)

    // Gradio's folded panels do not tell a screen reader whether they are open.
    const tell = () => {
        for (const button of document.querySelectorAll('.label-wrap')) {
            button.ariaExpanded = button.nextElementSibling?.style.display !== 'none'
        }
    }
    new MutationObserver(tell).observe(document.body, { childList: true, subtree: true, attributeFilter: ['style'] })
}
