struct LogBackend;
struct FileBackend;

kvtier_guest::export!(LogBackend FileBackend);

fn main() {}
