mod a {
    pub struct LogBackend;
}

struct LogBackend;

kvtier_guest::export!(LogBackend, a::LogBackend);

fn main() {}
