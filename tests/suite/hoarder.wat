;; A class in blocking style whose `contains` of n keys takes n of a resource and returns n, or 0 if it was
;; refused. It has two core modules with a memory and a table each; PAGES, ELEMENTS and TAKE are filled in.
(component
  (type $Types (instance
    (type $key-fields (record (field "hi" u64) (field "lo" u64)))
    (export "chunk-key" (type (eq $key-fields)))
    (type $metadata-fields (record
      (field "model-name" string) (field "world-size" u32) (field "worker-id" u32)
      (field "kv-dtype" string) (field "kv-shape" (list u32)) (field "chunk-size" u32)))
    (export "engine-metadata" (type $metadata (eq $metadata-fields)))
    (type $init-fields (record
      (field "backend-name" string) (field "dst-device" string) (field "metadata" $metadata)
      (field "namespace" string) (field "config" (list (tuple string string)))))
    (export "init" (type (eq $init-fields)))
    (type $error-cases (variant
      (case "unavailable" string) (case "invalid-config" string) (case "invalid-argument" string)
      (case "no-space") (case "corrupt" string) (case "unsupported") (case "other" string)))
    (export "error" (type (eq $error-cases)))
    (type $pinning-cases (enum "none" "pin"))
    (export "pinning" (type (eq $pinning-cases)))))
  (type $Buffers (instance
    (export "sources" (type (sub resource)))
    (export "sinks" (type (sub resource)))))
  (component $Class
    (import "types" (instance $types (type $Types)))
    (import "buffers" (instance $buffers (type $Buffers)))
    (alias export $types "chunk-key" (type $key))
    (alias export $types "init" (type $init))
    (alias export $types "error" (type $error))
    (alias export $types "pinning" (type $pinning))
    (alias export $buffers "sources" (type $sources))
    (alias export $buffers "sinks" (type $sinks))

    (type $local (resource (rep i32)))
    (export $object "hoarder-backend" (type $local))
    (core func $new (canon resource.new $local))
    (core instance $own (export "new" (func $new)))

    (core module $More
      (memory PAGES)
      (table ELEMENTS funcref)
      (func (export "memory") (param i32) (result i32) (memory.grow (local.get 0)))
      (func (export "table") (param i32) (result i32) (table.grow (ref.null func) (local.get 0))))
    (core instance $more (instantiate $More))

    (core module $Main
      (import "own" "new" (func $new (param i32) (result i32)))
      (import "more" "memory" (func $memory (param i32) (result i32)))
      (import "more" "table" (func $table (param i32) (result i32)))
      (memory (export "memory") 1)
      (table 10 funcref)
      ;; The host's arguments are never read, so they may be anywhere.
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
      (func $objects (param $n i32) (result i32)
        (block $done
          (loop $next
            (br_if $done (i32.eqz (local.get $n)))
            (drop (call $new (i32.const 0)))
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (br $next)))
        (i32.const 0))
      ;; Answers are at 0 (the object), 16 (zeroes: done, none of them, an empty list), 32 (the count).
      (func (export "construct") (param i32) (result i32)
        (i32.store (i32.const 4) (call $new (i32.const 0)))
        (i32.const 0))
      (func (export "done") (param i32) (result i32) (i32.const 16))
      (func (export "none") (param i32 i32 i32) (result i32) (i32.const 16))
      (func (export "empty") (param i32 i32 i32 i32) (result i32) (i32.const 16))
      (func (export "take") (param i32 i32) (param $n i32) (param i32) (result i32)
        (i32.store (i32.const 36)
          (if (result i32) (i32.eq (call $TAKE (local.get $n)) (i32.const -1))
            (then (i32.const 0))
            (else (local.get $n))))
        (i32.const 32)))
    (core instance $main (instantiate $Main (with "own" (instance $own)) (with "more" (instance $more))))
    (alias core export $main "memory" (core memory $m))
    (alias core export $main "realloc" (core func $realloc))

    (func $constructor (param "init" $init) (result (result (own $object) (error $error)))
      (canon lift (core func $main "construct") (memory $m) (realloc $realloc)))
    (func $open (param "self" (borrow $object)) (result (result (error $error)))
      (canon lift (core func $main "done") (memory $m) (realloc $realloc)))
    (func $contains (param "self" (borrow $object)) (param "keys" (list $key)) (param "pinning" $pinning)
        (result (result u32 (error $error)))
      (canon lift (core func $main "take") (memory $m) (realloc $realloc)))
    (func $put (param "self" (borrow $object)) (param "keys" (list $key)) (param "data" (own $sources))
        (result (list (result (error $error))))
      (canon lift (core func $main "empty") (memory $m) (realloc $realloc)))
    (func $get (param "self" (borrow $object)) (param "keys" (list $key)) (param "into" (own $sinks))
        (result (list (result (option u64) (error $error))))
      (canon lift (core func $main "empty") (memory $m) (realloc $realloc)))
    (func $count (param "self" (borrow $object)) (param "keys" (list $key)) (result (result u32 (error $error)))
      (canon lift (core func $main "none") (memory $m) (realloc $realloc)))

    (export "[constructor]hoarder-backend" (func $constructor))
    (export "[method]hoarder-backend.open" (func $open))
    (export "[method]hoarder-backend.contains" (func $contains))
    (export "[method]hoarder-backend.put" (func $put))
    (export "[method]hoarder-backend.get" (func $get))
    (export "[method]hoarder-backend.pin" (func $count))
    (export "[method]hoarder-backend.unpin" (func $count))
    (export "[method]hoarder-backend.remove" (func $count))
    (export "[method]hoarder-backend.close" (func $open)))

  (import "kvtier:storage/types@0.1.0" (instance $types (type $Types)))
  (import "kvtier:storage/buffers@0.1.0" (instance $buffers (type $Buffers)))
  (instance $class (instantiate $Class (with "types" (instance $types)) (with "buffers" (instance $buffers))))
  (export "kvtier-test:hoarder/store" (instance $class)))
