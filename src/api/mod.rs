//! Wire shapes: body scan and splice, SSE frames, error bodies. Pure.
