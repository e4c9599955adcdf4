() => {
    // A picture may be dropped or pasted anywhere, also on another one, which Gradio would remove before it has this.
    const take = (event, data) => {
        if (!data?.files.length) return
        event.preventDefault()
        event.stopPropagation()
        event.target.dispatchEvent(new DragEvent('dragleave', { bubbles: true }))
        const input = document.querySelector('#picture input[type=file]')
        if (!input) return  // while another one is on its way
        const first = new DataTransfer()
        first.items.add(data.files[0])
        input.files = first.files
        input.dispatchEvent(new Event('change', { bubbles: true }))
    }
    document.addEventListener('dragover', event => event.preventDefault())
    document.addEventListener('drop', event => take(event, event.dataTransfer), true)
    document.addEventListener('paste', event => take(event, event.clipboardData), true)

    // A file too large is refused before Gradio removes, for its sake, the picture that is there.
    document.addEventListener('change', event => {
        const refusal = document.querySelector('#notice [data-most]')
        if (!event.target.matches('#picture input[type=file]') || !(event.target.files[0]?.size > refusal.dataset.most)) return
        event.stopPropagation()
        refusal.dispatchEvent(new Event('refuse'))
    }, true)

    // What is typed into a list after a click searches it: the click selects the text that is there.
    const select = event => event.target.select()
    document.addEventListener('focusin', event => {
        if (event.target.matches('[role=combobox]')) event.target.addEventListener('click', select, { once: true })
    })
    // Gradio opens a list a moment after any key, even after those that leave it.
    document.addEventListener('keydown', event => {
        if (/^(Tab|Shift)$/.test(event.key) && event.target.matches('[role=combobox]')) event.stopPropagation()
    }, true)

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

    // Answers come by a stream that the server ends when none is due. A question that it accepts just then, and whose
    // receipt overtakes that end, would never be answered, since Gradio stops listening: instead the stream is had anew.
    const { fetch } = window, due = new Set()
    const listen = (request, stream) => {
        let rest = '', anew = false
        const messages = new TransformStream({
            transform(text, page) {
                const lines = (rest + text).split('\n')
                rest = lines.pop()
                for (const line of lines) {
                    const [, what, event] = line.match(/^data: {"msg":"(\w+)","event_id":"?(\w+)/) ?? []
                    if (what === 'process_completed') due.delete(event)
                    if (what === 'close_stream' && due.size) anew = true
                    else page.enqueue(line + '\n')
                }
            },
            async flush(page) {
                if (!anew) return
                const { body } = await window.fetch(request)
                await body.pipeThrough(new TextDecoderStream()).pipeTo(new WritableStream({ write: text => page.enqueue(text) }))
            },
        })
        const body = stream.body.pipeThrough(new TextDecoderStream()).pipeThrough(messages)
        return new Response(body.pipeThrough(new TextEncoderStream()), stream)
    }
    window.fetch = async (request, options) => {
        const response = await fetch(request, options), { pathname } = new URL(request.url ?? request, location)
        if (response.ok && pathname.endsWith('/queue/join')) due.add((await response.clone().json()).event_id)
        return response.ok && pathname.endsWith('/queue/data') ? listen(request, response) : response
    }
}
