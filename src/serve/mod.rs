//! Sockets, the middleware stack, endpoints.
