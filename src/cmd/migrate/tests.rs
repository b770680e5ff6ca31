//! What is printed, judged by what a gateway makes of it.
