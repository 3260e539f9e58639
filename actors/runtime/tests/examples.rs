//! Each example runs to its end; its assertions hold.

macro_rules! example {
    ($name:ident, $path:literal) => {
        #[path = $path]
        mod $name;

        #[test]
        fn $name() {
            $name::main().expect(concat!("the example ", stringify!($name)));
        }
    };
}

example!(counter, "../examples/counter.rs");
example!(restarting_worker, "../examples/restarting_worker.rs");
example!(batcher, "../examples/batcher.rs");
example!(pipeline, "../examples/pipeline.rs");
