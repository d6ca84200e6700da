import { type Answer, type FieldList, uncompressed } from './answer.ts';
import { normal, text } from './normal.ts';
import type { Step } from './step.ts';
import type { Twin } from './twin.ts';

/**
 * An answer as it is compared: all of it, with placeholders for what may differ. When both sockets were asked about the
 * same object (`twin` is left out) that is only what the runtime measures anew for each answer.
 */
export function comparable(answer: Answer, step: Step, twin?: Twin) {
  const messages = answer.messages.map((message) => {
    const bytes = uncompressed(message);
    return { flag: message.flag, bytes, content: step.decode(bytes) };
  });
  return {
    headers: fields(answer.headers, twin),
    trailersOnly: answer.trailersOnly,
    messages: messages
      .filter(({ content }) => twin === undefined || step.isAbout(content, twin))
      .map(({ flag, bytes, content }) => ({
        flag,
        content: normal(content, twin),
        // Decoding cannot tell a field that is absent from one that is there with its default value.
        undecoded: bytes.length - step.encodedLength(content),
        bytes: step.sameBytes ? bytes.toString('base64') : 'may differ',
      })),
    excess: answer.excess.toString('base64'),
    trailers: fields(answer.trailers, twin),
    resetCode: answer.resetCode,
  };
}

function fields(list: FieldList, twin: Twin | undefined): FieldList {
  if (twin === undefined) return list;
  return list.map(([name, value]) => {
    // Binary values (grpc-status-details-bin) hold names, too.
    const isBinary = name.endsWith('-bin');
    return [name, text(isBinary ? Buffer.from(value, 'base64').toString('latin1') : value, twin)];
  });
}
