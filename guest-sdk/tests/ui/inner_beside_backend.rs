struct Backend;
struct FileBackend;

kvtier_guest::export!(Backend, inner FileBackend);

fn main() {}
