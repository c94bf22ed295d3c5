#include "worker/network.h"

#include <math.h>

#include "common/check.h"
#include "common/fmath.h"
#include "worker/network_internal.h"

/* Number i goes to lane i % 8, as in worker/compute_cpu_dense.c. */
static double squares(const float *x, size_t count)
{
    double lanes[8] = {0};
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (size_t k = 0; k < 8; k++)
            lanes[k] += (double)x[i + k] * (double)x[i + k];
    for (size_t k = 0; i + k < count; k++)
        lanes[k] += (double)x[i + k] * (double)x[i + k];
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
           ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

static void scale_by(float *x, size_t count, float factor)
{
    for (size_t i = 0; i < count; i++)
        x[i] *= factor;
}

double network_clip(const struct model *m, const struct batch *b,
                    const struct network_gradients *gradients, double norm)
{
    const struct schema *s = m->schema;
    double sum = 0;
    for (uint32_t t = 0; t < s->table_count; t++)
        sum += squares(gradients->rows[t], (size_t)b->tables[t].key_count * s->tables[t].dim);
    for (uint32_t p = 0; p < s->dense_count; p++)
        sum += squares(gradients->dense[p], s->dense[p].count);
    double found = __builtin_sqrt(sum);
    if (!(norm > 0 && found > norm && isfinite(found)))
        return found;
    float factor = (float)(norm / found);
    for (uint32_t t = 0; t < s->table_count; t++)
        scale_by(gradients->rows[t], (size_t)b->tables[t].key_count * s->tables[t].dim, factor);
    for (uint32_t p = 0; p < s->dense_count; p++)
        scale_by(gradients->dense[p], s->dense[p].count, factor);
    return found;
}

struct network_metric network_metric(const struct model *m, const struct batch *b,
                                     const float *logits, float *logit_room, float *label_room)
{
    const struct model_output *o = &m->outputs[m->metric_output];
    uint32_t stride;
    const float *labels = network_labels(b, o, &stride);
    if (m->output_count == 1)
        return (struct network_metric){logits, b->labels};
    for (uint32_t i = 0; i < b->example_count; i++) {
        logit_room[i] = logits[(size_t)i * m->output_width + m->metric_output];
        label_room[i] = labels[(size_t)i * stride];
    }
    return (struct network_metric){logit_room, label_room};
}

double network_loss(const struct model *m, const float *logits, float label)
{
    switch (m->loss) {
    case LOSS_LOGISTIC:
        return fmath_logistic_loss(*logits, label);
    case LOSS_SQUARED:
        return fmath_squared_loss(*logits, label);
    case LOSS_SOFTMAX:
        CHECK(label >= 0 && label < (float)m->output_width);
        return fmath_softmax_loss(logits, m->output_width, (uint32_t)label);
    }
    CHECK(false);
}

static void predict_softmax(const float *logits, uint32_t width, float *prediction)
{
    float largest = logits[0], sum = 0;
    for (uint32_t j = 1; j < width; j++)
        largest = logits[j] > largest ? logits[j] : largest;
    for (uint32_t j = 0; j < width; j++)
        sum += prediction[j] = fmath_exp(logits[j] - largest);
    for (uint32_t j = 0; j < width; j++)
        prediction[j] /= sum;
}

void network_predict(const struct model *m, const float *logits, float *prediction)
{
    for (uint32_t o = 0; o < m->output_count; o++) {
        if (m->outputs[o].loss == LOSS_SOFTMAX)
            predict_softmax(logits, m->output_width, prediction);
        else
            prediction[o] =
                m->outputs[o].loss == LOSS_LOGISTIC ? fmath_sigmoid(logits[o]) : logits[o];
    }
}
