/* Prints what a deployed detector finds in an image, with MXNet's C predict API alone.
 *
 *   detect NAME-whole-symbol.json NAME-whole-0000.params IMAGE.ppm [LEAST_SCORE]
 *
 * manifest.json lies beside the symbol and says how images are prepared. IMAGE is a
 * binary PPM (P6) of 8 bits, LEAST_SCORE is 0 to 1 (default: 0.5). Every line is a class
 * number, a score and a corner box (xmin ymin xmax ymax) in pixels of the image.
 * Status 2: bad input.
 */
#include <stdbool.h> /* before MXNet's header, which needs both */
#include <stdint.h>
#include <mxnet/c_predict_api.h>
#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PIXELS = 1 << 26 };
enum Resize { AREA, CUBIC, LINEAR };

/* What the manifest states of images. */
typedef struct {
  int height, width;
  float mean[3], std[3];
  enum Resize larger, smaller, otherwise; /* than the input both ways, or neither */
} Preprocess;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "detect: %s: %.*s\n", what, (int)strcspn(why, "\n"), why);
  _Exit(2); /* MXNet does not survive exit() with a net at work */
}

static void check(int status, const char *what) {
  if (status != 0) fail(what, MXGetLastError());
}

static char *read_file(const char *path, long *length) {
  FILE *file = fopen(path, "rb");
  if (!file) fail(path, "cannot be opened");
  if (fseek(file, 0, SEEK_END) != 0 || (*length = ftell(file)) < 0 || *length >= INT_MAX)
    fail(path, "cannot be read");
  rewind(file);
  char *data = malloc(*length + 1);
  if (!data || fread(data, 1, *length, file) != (size_t)*length) fail(path, "cannot be read");
  data[*length] = 0;
  fclose(file);
  return data;
}

/* The next number in the head of a PPM, in which # starts a remark; -1: there is none. */
static int number(FILE *file) {
  int c, value;
  while (isspace(c = fgetc(file)) || c == '#')
    if (c == '#')
      while (c != '\n' && c != EOF) c = fgetc(file);
  ungetc(c, file);
  return fscanf(file, "%9d", &value) == 1 ? value : -1;
}

static unsigned char *read_ppm(const char *path, int *width, int *height) {
  FILE *file = fopen(path, "rb");
  if (!file) fail(path, "cannot be opened");
  bool binary = fgetc(file) == 'P' && fgetc(file) == '6';
  *width = number(file), *height = number(file);
  if (!binary || number(file) != 255 || *width < 1 || *height < 1)
    fail(path, "not a binary PPM of 8 bits");
  if (*width > MOST_PIXELS / *height) fail(path, "more than 67108864 pixels");
  int blank = fgetc(file); /* one, then the pixels: of CR LF, LF would be the first */
  if (!isspace(blank) || blank == '\r')
    fail(path, "no line feed or blank behind 255 (CR LF line ends are refused)");
  size_t count = 3 * (size_t)*width * *height;
  unsigned char *pixels = malloc(count);
  if (!pixels || fread(pixels, 1, count, file) != count) fail(path, "is cut short");
  fclose(file);
  return pixels;
}

/* How much of pixel `from` of the image is in pixel `at` of the input, along one side. */
static float share(enum Resize how, int from, int at, double scale) {
  if (how == AREA) {
    double low = at * scale, high = low + scale;
    low = low > from ? low : from;
    high = high < from + 1 ? high : from + 1;
    return high > low ? (high - low) / scale : 0;
  }
  double far = (at + 0.5) * scale - 0.5 - from;
  far = far < 0 ? -far : far;
  if (how == LINEAR) return far < 1 ? (int)(2048 * (1 - far) + 0.5) / 2048.0 : 0;
  if (far < 1) return (1.25 * far - 2.25) * far * far + 1;
  return far < 2 ? ((-0.75 * far + 3.75) * far - 6) * far + 3 : 0;
}

static int within(int at, int length) { return at < 0 ? 0 : at < length ? at : length - 1; }

/* A value without what is finer than a part of one. */
static float cut(float value, int part) { return (int)(value * part) / (float)part; }

/* Resizes as OpenCV does, its roundings included, scales and puts channels first. */
static float *prepare(const unsigned char *pixels, int width, int height,
                      const Preprocess *to) {
  double across = (double)width / to->width, down = (double)height / to->height;
  enum Resize how = across > 1 && down > 1   ? to->larger
                    : across < 1 && down < 1 ? to->smaller
                                             : to->otherwise;
  bool even = how == AREA && (across != 2 || down != 2); /* where a half is rounded to */
  float *input = malloc(sizeof(float) * 3 * to->height * to->width);
  for (int y = 0; y < to->height; ++y)
    for (int x = 0; x < to->width; ++x) {
      float sum[3] = {0, 0, 0};
      for (int i = (int)(y * down) - 2; i <= (y + 1) * down + 2; ++i) {
        float high = share(how, i, y, down), row[3] = {0, 0, 0};
        for (int j = (int)(x * across) - 2; high != 0 && j <= (x + 1) * across + 2; ++j) {
          float wide = share(how, j, x, across);
          size_t place = (size_t)within(i, height) * width + within(j, width);
          for (int c = 0; c < 3; ++c) row[c] += wide * pixels[3 * place + c];
        }
        for (int c = 0; c < 3; ++c)
          sum[c] += how == LINEAR ? cut(high * cut(row[c], 128), 4) : high * row[c];
      }
      for (int c = 0; c < 3; ++c) {
        int level = (int)(sum[c] + 0.5f);
        if (even && level - sum[c] == 0.5f) level &= ~1;
        float value = within(level, 256) / 255.0f - to->mean[c];
        input[(c * to->height + y) * to->width + x] = value / to->std[c];
      }
    }
  return input;
}

/* The value behind a key, wherever in the manifest it is; NULL: there is none. */
static const char *value_of(const char *manifest, const char *key) {
  char quoted[32];
  snprintf(quoted, sizeof quoted, "\"%s\"", key);
  for (const char *at = manifest; (at = strstr(at, quoted)); ++at) {
    const char *after = at + strlen(quoted);
    after += strspn(after, " \n\r\t");
    if (*after == ':') return after + 1 + strspn(after + 1, " \n\r\t");
  }
  return NULL;
}

static void read_three(const char *manifest, const char *key, float *values,
                       const char *path) {
  const char *at = value_of(manifest, key);
  if (!at || sscanf(at, "[ %f , %f , %f", values, values + 1, values + 2) != 3)
    fail(path, "does not state mean and std of three channels");
}

static enum Resize read_resize(const char *manifest, const char *key, enum Resize usual,
                               const char *path) {
  const char *at = value_of(manifest, key);
  if (!at) return usual; /* an early manifest does not state it */
  if (strncmp(at, "\"area\"", 6) == 0) return AREA;
  if (strncmp(at, "\"cubic\"", 7) == 0) return CUBIC;
  if (strncmp(at, "\"linear\"", 8) == 0) return LINEAR;
  fail(path, "states an interpolation other than area, cubic and linear");
  return usual;
}

/* Reads the manifest beside a symbol, of this version or an earlier one. */
static Preprocess read_preprocess(const char *symbol, const char *symbol_path) {
  Preprocess made;
  /* The symbol states the shape of its input first. */
  const char *at = strstr(symbol, "\"__shape__\"");
  if (!at || sscanf(at + 11, " : \"(0, 3, %4d, %4d)", &made.height, &made.width) != 2 ||
      made.height < 1 || made.width < 1)
    fail(symbol_path, "does not state the size of its input as a whole detector does");
  char path[4096];
  const char *slash = strrchr(symbol_path, '/');
  int folder = slash ? (int)(slash - symbol_path) + 1 : 0;
  if (snprintf(path, sizeof path, "%.*smanifest.json", folder, symbol_path) >=
      (int)sizeof path)
    fail(symbol_path, "has too long a name");
  long unused;
  char *manifest = read_file(path, &unused);
  read_three(manifest, "mean", made.mean, path);
  read_three(manifest, "std", made.std, path);
  const char *ratio = value_of(manifest, "keep_ratio");
  if (ratio && strncmp(ratio, "false", 5) != 0)
    fail(path, "states keep_ratio, which this program does not do");
  made.larger = read_resize(manifest, "larger", AREA, path);
  made.smaller = read_resize(manifest, "smaller", CUBIC, path);
  made.otherwise = read_resize(manifest, "otherwise", LINEAR, path);
  free(manifest);
  return made;
}

static float *output(PredictorHandle net, uint32_t index, uint32_t width, uint32_t *rows) {
  uint32_t *shape, dimensions;
  check(MXPredGetOutputShape(net, index, &shape, &dimensions), "shape of an output");
  if (dimensions != 3 || shape[2] != width) fail("symbol", "not one of a whole detector");
  *rows = shape[1];
  float *values = malloc(sizeof(float) * *rows * width);
  check(MXPredGetOutput(net, index, values, *rows * width), "output");
  return values;
}

/* Compares the names of parameters with those that a symbol needs beside its input. */
static void compare(const char *symbol, NDListHandle params, uint32_t count,
                    const char *path) {
  uint32_t needed = 0, dimensions;
  for (const char *at = symbol; (at = strstr(at, "\"null\"")); ++at) ++needed;
  bool same = needed == count + 1;
  for (uint32_t i = 0; same && i < count; ++i) {
    const char *key, *colon;
    const float *values;
    const uint32_t *shape;
    char name[256] = "";
    check(MXNDListGet(params, i, &key, &values, &shape, &dimensions), path);
    if ((colon = strchr(key, ':'))) snprintf(name, sizeof name, "\"%s\"", colon + 1);
    same = colon && strstr(symbol, name);
  }
  if (!same) fail(path, "holds other parameters than those of the symbol");
}

int main(int argc, char **argv) {
  if (argc < 4 || argc > 5) fail("usage", "detect SYMBOL PARAMS IMAGE.ppm [LEAST_SCORE]");
  const char *given = argc > 4 ? argv[4] : "0.5";
  char *end;
  float least = strtof(given, &end);
  if (end == given || *end || !(least >= 0 && least <= 1))
    fail(given, "no least score; allowed: a number from 0 to 1");
  int width, height;
  long length, unused;
  const char *name = "data", *symbol = read_file(argv[1], &unused);
  const char *params = read_file(argv[2], &length);
  unsigned char *pixels = read_ppm(argv[3], &width, &height);
  Preprocess to = read_preprocess(symbol, argv[1]);
  uint32_t ends[2] = {0, 4}, shape[4] = {1, 3, to.height, to.width}, count, rows;
  NDListHandle list;
  PredictorHandle net;
  check(MXNDListCreate(params, (int)length, &list, &count), argv[2]);
  check(MXPredCreate(symbol, params, (int)length, 1, 0, 1, &name, ends, shape, &net), argv[1]);
  compare(symbol, list, count, argv[2]); /* what it lacks, MXNet takes for 0 */
  float *input = prepare(pixels, width, height, &to);
  float across = (float)width / to.width, down = (float)height / to.height;
  check(MXPredSetInput(net, name, input, 3 * to.height * to.width), "input");
  check(MXPredForward(net), "forward");
  float *ids = output(net, 0, 1, &rows), *scores = output(net, 1, 1, &rows);
  float *boxes = output(net, 2, 4, &rows);
  for (uint32_t i = 0; i < rows; ++i) {
    float box[4];
    bool finite = isfinite(scores[i]);
    for (int k = 0; k < 4; ++k) {
      box[k] = boxes[4 * i + k] * (k % 2 == 0 ? across : down);
      finite = finite && isfinite(box[k]);
    }
    if (finite && ids[i] >= 0 && scores[i] >= least)
      printf("%d %.4f %.1f %.1f %.1f %.1f\n", (int)ids[i], scores[i], box[0], box[1], box[2],
             box[3]);
  }
  if (fflush(stdout) != 0 || ferror(stdout)) fail("standard output", "cannot be written");
  _Exit(0); /* by return, MXNet's threads now and then abort or hang as it is taken down */
}
