// Short names for what bindings/backend.h declares.
#ifndef CONTRACT_H
#define CONTRACT_H

#include "backend.h"

// A method of the class, and another function or type of the interface `backend`.
#define METHOD(name) exports_backend_method_backend_##name
#define CLASS(name) exports_backend_##name

typedef CLASS(backend_t) backend_t;
typedef CLASS(error_t) error_t;
typedef CLASS(list_chunk_key_t) keys_t;
typedef CLASS(result_void_error_t) put_result_t;
typedef CLASS(result_option_u64_error_t) get_result_t;

#endif
