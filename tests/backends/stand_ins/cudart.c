/* The CUDA runtime's functions that the TensorRT tenant calls, over ordinary memory. */
#include <stdlib.h>
#include <string.h>
int cudaStreamCreate(void **stream) { *stream = (void *)1; return getenv("STUB_NO_GPU") ? 100 : 0; }
int cudaStreamSynchronize(void *stream) { return getenv("STUB_LOST_GPU") ? 719 : 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 7; return 0; }
int cudaMalloc(void **memory, size_t size) { *memory = malloc(size); return *memory == 0; }
int cudaFree(void *memory) { free(memory); return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return 0; }
