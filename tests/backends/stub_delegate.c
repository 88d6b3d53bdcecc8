/* A LiteRT external delegate that stands in for an accelerator: it claims every operation named
   edgetpu-custom-op and leaves the outputs as they are. Layouts follow LiteRT's stable C
   interface (tflite/core/c/common.h); only the members used here are named.
   Options: absent=1 finds no device; fail=N fails the N-th run; claim=0 claims nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int size; int data[]; } IntArray;
typedef struct Context Context;
typedef struct Delegate Delegate;
typedef struct Node { IntArray *inputs, *outputs, *intermediates, *temporaries; void *user_data; } Node;
typedef struct Registration {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external, *async_kernel;
  uint64_t inplace_operator;
} Registration;
struct Context {
  size_t tensors_size;
  int (*get_execution_plan)(Context *, IntArray **);
  void *tensors;
  void *impl;
  int (*resize_tensor)(Context *, void *, IntArray *);
  void (*report_error)(Context *, const char *, ...);
  int (*add_tensors)(Context *, int, int *);
  int (*get_node_and_registration)(Context *, int, Node **, Registration **);
  int (*replace_node_subsets)(Context *, Registration, const IntArray *, Delegate *);
};
struct Delegate {
  void *data;
  int (*prepare)(Context *, Delegate *);
  int (*copy_from)(Context *, Delegate *, int, void *);
  int (*copy_to)(Context *, Delegate *, int, void *);
  void (*free_handle)(Context *, Delegate *, int *);
  int64_t flags;
  void *opaque;
};
typedef struct { int fail, claim, runs; } State;
static State state;

static int prepare(Context *c, Node *n) { return 0; }
static int invoke(Context *c, Node *n) {
  if (++state.runs == state.fail) { c->report_error(c, "stub: transfer failed"); return 1; }
  return 0;
}
static int take(Context *c, Delegate *d) {
  IntArray *plan;
  if (!state.claim || c->get_execution_plan(c, &plan)) return 0;
  IntArray *mine = malloc(sizeof(int) * (plan->size + 1));
  mine->size = 0;
  for (int i = 0; i < plan->size; i++) {
    Node *node; Registration *r;
    c->get_node_and_registration(c, plan->data[i], &node, &r);
    if (r->custom_name && !strcmp(r->custom_name, "edgetpu-custom-op")) mine->data[mine->size++] = plan->data[i];
  }
  Registration kernel = {.prepare = prepare, .invoke = invoke, .custom_name = "StubDelegate", .version = 1};
  int code = c->replace_node_subsets(c, kernel, mine, d);
  free(mine);
  return code;
}
__attribute__((visibility("default"))) Delegate *tflite_plugin_create_delegate(
    char **keys, char **values, size_t count, void (*report)(const char *)) {
  state = (State){.claim = 1};
  for (size_t i = 0; i < count; i++) {
    if (!strcmp(keys[i], "absent")) { report("stub: no device"); return NULL; }
    if (!strcmp(keys[i], "fail")) state.fail = atoi(values[i]);
    if (!strcmp(keys[i], "claim")) state.claim = atoi(values[i]);
  }
  Delegate *d = calloc(1, sizeof *d);
  d->prepare = take;
  d->flags = 1; /* dynamic tensors are allowed: a custom operation's outputs are such */
  return d;
}
__attribute__((visibility("default"))) void tflite_plugin_destroy_delegate(Delegate *d) { free(d); }
