struct LogBackend;
struct FileBackend;

kvtier_guest::export!(inner LogBackend, inner FileBackend);

fn main() {}
